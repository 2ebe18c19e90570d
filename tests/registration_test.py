"""A test that nobody runs looks like one that passes: each test file is named in a CMakeLists.txt, and each folder with
such a list in the topmost."""

import pathlib
import re
import sys

TESTS = pathlib.Path(__file__).resolve().parent
LISTS = {path.parent: re.sub(r"#[^\n]*", "", path.read_text()) for path in TESTS.rglob("CMakeLists.txt")}


def is_named(path):
    """In a list of its folder, of one above, or of one that points there ("faults/${test}_test.py"): by its whole name, or by
    its stem where the list makes the rest."""
    names = {path.name, path.stem, re.sub("_(test|fuzz)$", "", path.stem)}
    words = "|".join(re.escape(name) for name in names)
    return any(re.search(rf"(?<![\w.])({words})(?![\w.])", text) for folder, text in LISTS.items()
               if folder in path.parents or f"/{path.parent.name}/" in text)


def main():
    files = sorted(path for suffix in ("cc", "py") for kind in ("test", "fuzz") for path in TESTS.rglob(f"*_{kind}.{suffix}"))
    lost = [path.relative_to(TESTS) for path in files if not is_named(path)]
    for path in lost:
        print(f"{path} is in no CMakeLists.txt: it is not run")
    # One with a project of its own is what some test builds.
    lists = sorted(folder.relative_to(TESTS) for folder, text in LISTS.items()
                   if folder != TESTS and "project(" not in text)
    for folder in lists:
        if not re.search(rf"(?<![\w/]){re.escape(str(folder))}(?![\w/])", LISTS[TESTS]):
            print(f"{folder}/CMakeLists.txt is not added")
            lost.append(folder)
    print(f"registration: {len(files)} tests, {len(lists)} folders, {len(lost)} lost")
    return 1 if lost or len(files) < 150 else 0


if __name__ == "__main__":
    sys.exit(main())
