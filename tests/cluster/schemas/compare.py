"""Compares kuberay.yaml with the real definitions: ``python -m tests.cluster.schemas.compare CRDS.yaml``.

Every field that we describe has to be there, with the same values where it is an enumeration, and required as
there.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]


def differences(ours: Schema, theirs: Schema, definitions: Schema, where: str) -> list[str]:
    """What our description of a field says otherwise than the real one, field by field."""
    if "$ref" in ours:
        ours = definitions[ours["$ref"].rpartition("/")[2]]
    found = []
    if "enum" in ours and "enum" in theirs and not set(ours["enum"]) <= set(theirs["enum"]):
        found.append(f"{where}: {ours['enum']} here, {theirs['enum']} there")
    if "properties" in ours:
        known = theirs.get("properties", {})
        found += [f"{where}.{name}: unknown there" for name in ours["properties"] if name not in known]
        found += [
            f"{where}.{name}: required there"
            for name in theirs.get("required", [])
            if name not in ours.get("required", [])
        ]
        for name in ours["properties"].keys() & known.keys():
            found += differences(ours["properties"][name], known[name], definitions, f"{where}.{name}")
    if "items" in ours:
        found += differences(ours["items"], theirs.get("items", {}), definitions, f"{where}[]")
    return sorted(found)


def compare(definitions_of_crds: list[Schema]) -> list[str]:
    """All differences to the definitions of these CustomResourceDefinitions."""
    ours = yaml.safe_load((Path(__file__).parent / "kuberay.yaml").read_text("utf-8"))
    found = []
    for crd in definitions_of_crds:
        group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
        for version in crd["spec"]["versions"]:
            described = ours.get(f"{group}/{version['name']}/{kind}")
            if described:
                real = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
                found += differences(described, real, ours["$defs"], kind)
    return found


def main() -> int:
    """Print the differences; 1 where there are any."""
    documents = [part for file in sys.argv[1:] for part in yaml.safe_load_all(Path(file).read_text("utf-8"))]
    crds = [crd for part in documents for crd in (part["items"] if part["kind"] == "List" else [part])]
    found = compare(crds)
    print("\n".join(found) or f"{len(crds)} definitions: no difference")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
