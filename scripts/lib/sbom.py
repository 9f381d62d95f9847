"""Says what the programs are made of: writes a bill of materials (spliceway.cdx.json, CycloneDX) and the licences of all
that is in them (licences.txt.gz) into a directory.

scripts/package calls it at the top of the repository. `cargo metadata` says what each crate is and under which
licence, Cargo.lock has its checksum, and `cargo tree` says which crates a build of all programs is made of:
`cargo metadata`, and the tools that go by it, also list crates of features that nothing switches on. The same sources
and the same Rust make the same files, whenever and wherever they are made.
"""

import datetime
import gzip
import html
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

SPEC = "1.6"
PROGRAMS = ["spliceway", "spliceway-bench"]
LICENCE_FILES = re.compile(r"(UN)?LICEN[CS]E|COPYING|COPYRIGHT|NOTICE", re.IGNORECASE)


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tree(edges):
    """What depends on what in a build of all programs: names with versions, and those that each needs."""
    lines = output(
        *["cargo", "tree", "--workspace", "--locked", "--edges", edges],
        *["--prefix", "depth", "--format", " {p}"],
    )
    needs, path = {}, []
    for depth, name, version in re.findall(r"^(\d+) (\S+) v(\S+)", lines, re.MULTILINE):
        # A crate is spelt out where it comes first, and is a line without what it needs from then on.
        crate = (name, version)
        del path[int(depth) :]
        if path:
            needs[path[-1]].add(crate)
        needs.setdefault(crate, set())
        path.append(crate)
    return needs


def reached(needs, roots):
    found, waiting = set(), list(roots)
    while waiting:
        crate = waiting.pop()
        if crate not in found:
            found.add(crate)
            waiting.extend(needs[crate])
    return found


def reference(crate):
    return "{}@{}".format(*crate)


def component(package, checksum, is_within):
    crate = {
        "type": "application" if package["name"] in PROGRAMS else "library",
        "bom-ref": f"{package['name']}@{package['version']}",
        "name": package["name"],
        "version": package["version"],
        # What only runs in the compiler is in no program.
        "scope": "required" if is_within else "excluded",
        # Crates from before SPDX expressions have a slash where those have "OR".
        "licenses": [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}],
    }
    # The crates of this repository are not in a registry, where the name may be somebody else's.
    if checksum:
        crate["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        crate["purl"] = f"pkg:cargo/{package['name']}@{package['version']}"
    if package["repository"]:
        crate["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return crate


def compiler():
    """The standard library is in every program, with what it is made of."""
    said = dict(re.findall(r"^(\S+): (.*)$", output("rustc", "-vV"), re.MULTILINE))
    version = said["release"]
    return said["host"], {
        "type": "platform",
        "bom-ref": f"rust@{version}",
        "name": "rust",
        "version": version,
        "description": f"The standard library, commit {said['commit-hash']}",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "cpe": f"cpe:2.3:a:rust-lang:rust:{version}:*:*:*:*:*:*:*",
    }


def bill_of_materials(packages, programs, within, host, rust):
    with open("Cargo.lock", "rb") as lock:
        checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    needs = tree("normal,build")
    crates = reached(needs, programs)
    (version,) = {version for _, version in programs}
    subject = f"spliceway-{version}-{host}"
    dependencies = {reference(crate): sorted(map(reference, needs[crate])) for crate in sorted(crates)}
    for program in programs:
        dependencies[reference(program)].append(rust["bom-ref"])
    dependencies[subject] = sorted(map(reference, programs))
    bom = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": subject,
                "name": "spliceway",
                "version": version,
                "licenses": [{"expression": "MIT OR Apache-2.0"}],
            },
            "properties": [{"name": "cdx:rustc:sbom:target:triple", "value": host}],
        },
        "components": [
            *(component(packages[c], checksums[c], c in within) for c in sorted(crates)),
            rust,
        ],
        "dependencies": [{"ref": ref, "dependsOn": on} for ref, on in dependencies.items()],
    }
    # Of what is in it, so that an equal document has the same number.
    content = json.dumps(bom, sort_keys=True)
    bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, content).urn
    made = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    bom["metadata"]["timestamp"] = made.strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(bom, indent=1) + "\n"


def licence_texts(directory):
    found = (path for path in directory.glob("*") if LICENCE_FILES.match(path.name) and path.is_file())
    texts = (path.read_text(errors="replace") for path in sorted(found))
    return [text.strip("\n") for text in texts if text.strip()]


def licence_of_rust():
    """What comes with the compiler: a page."""
    sysroot = Path(output("rustc", "--print", "sysroot").strip())
    page = sysroot / "share/doc/rust/COPYRIGHT-library.html"
    if not page.exists():
        return []
    lines = html.unescape(re.sub(r"<[^>]*>", "", page.read_text())).splitlines()
    return ["\n".join(line.rstrip() for line in lines).strip("\n")]


def licences(packages, within, rust):
    """Each text once, behind the names of all that have it: most licences ask for that where a program is passed on."""
    texts = {
        f"{name} {version} ({package['license']})": licence_texts(Path(package["manifest_path"]).parent)
        for (name, version), package in ((crate, packages[crate]) for crate in sorted(within))
        if package["source"]
    }
    texts[f"rust {rust['version']}, the standard library (MIT OR Apache-2.0)"] = licence_of_rust()
    owners = {}
    for owner, all_of_it in texts.items():
        for text in all_of_it or ["(There is no file with the text.)"]:
            owners.setdefault(text, []).append(owner)
    rule = "-" * 80
    parts = ["What is in the programs beside spliceway itself, and under which licences."]
    for text, names in owners.items():
        parts += [rule, "\n".join(dict.fromkeys(names)), rule, text]
    return "\n\n".join(parts) + "\n"


def main(directory):
    host, rust = compiler()
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    packages = {(p["name"], p["version"]): p for p in json.loads(output(*command))["packages"]}
    programs = [crate for crate in packages if crate[0] in PROGRAMS and not packages[crate]["source"]]
    within = reached(tree("normal,no-proc-macro"), programs)
    bill = bill_of_materials(packages, programs, within, host, rust)
    (directory / "spliceway.cdx.json").write_text(bill)
    text = licences(packages, within, rust)
    (directory / "licences.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


main(Path(sys.argv[1]))
