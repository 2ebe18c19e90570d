"""A test that nobody runs looks like one that passes: each test file is named in the CMakeLists.txt of its folder or of one
above it, and each folder with such a list in the topmost."""

import pathlib
import re
import sys

TESTS = pathlib.Path(__file__).resolve().parent


def lists_above(path):
    for folder in path.parents:
        if (folder / "CMakeLists.txt").exists():
            yield (folder / "CMakeLists.txt").read_text()
        if folder == TESTS:
            return


def is_named(path):
    """By its whole name, or by its stem where a list makes the rest: "tls", of tls_test.py."""
    names = {path.name, path.stem, re.sub("_(test|fuzz)$", "", path.stem)}
    words = "|".join(re.escape(name) for name in names)
    return any(re.search(rf"(?<![\w.])({words})(?![\w.])", text) for text in lists_above(path))


def main():
    files = sorted(path for suffix in ("cc", "py") for kind in ("test", "fuzz") for path in TESTS.rglob(f"*_{kind}.{suffix}"))
    lost = [path.relative_to(TESTS) for path in files if not is_named(path)]
    for path in lost:
        print(f"{path} is in no CMakeLists.txt: it is not run")
    # One with a project of its own is what some test builds.
    lists = sorted(path.parent.relative_to(TESTS) for path in TESTS.rglob("CMakeLists.txt")
                   if path.parent != TESTS and "project(" not in path.read_text())
    top = (TESTS / "CMakeLists.txt").read_text()
    for folder in lists:
        if not re.search(rf"(?<![\w/]){re.escape(str(folder))}(?![\w/])", top):
            print(f"{folder}/CMakeLists.txt is not added")
            lost.append(folder)
    print(f"registration: {len(files)} tests, {len(lists)} folders, {len(lost)} lost")
    return 1 if lost or len(files) < 150 else 0


if __name__ == "__main__":
    sys.exit(main())
