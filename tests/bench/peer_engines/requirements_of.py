"""Run inside an environment: what an installed package wants, without those named, as JSON.

    requirements_of.py PACKAGE [NAME...]"""

import importlib.metadata
import json
import sys

from packaging.requirements import Requirement


def main():
    package, *without = sys.argv[1:]
    kept, dropped = [], []
    for text in importlib.metadata.requires(package):
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        requirement.marker = None
        (dropped if requirement.name in without else kept).append(str(requirement))
    print(json.dumps({"kept": kept, "dropped": dropped}))


if __name__ == "__main__":
    main()
