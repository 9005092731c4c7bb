#!/usr/bin/env python3
"""Makes kubernetes.txt, the schema data of the API's built-in kinds. Development time only: nothing runs it in a build.

Sources, both Apache-2.0 and pinned by hash (see NOTICE):
  * PyPI kubernetes-validate 1.36.0: definitions, descriptions, list and patch facts of Kubernetes 1.36
  * crates.io k8s-pb 0.9.0: protobuf tags of Kubernetes 1.35
The facts that neither has are in the tables of this file, each named in its comment.

Usage: generate.py [SDIST [CRATE]]   (downloads what is not given)
"""

import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

from facts import (
    ALWAYS,
    ANSWER_KINDS,
    EXTRA_TAGS,
    GO_TYPES,
    INLINE,
    LIST_DEFAULTS,
    OMIT_ZERO,
    OMITTED,
    POINTERS,
    QUERY_KINDS,
    WIRE_NAMES,
)

HERE = pathlib.Path(__file__).parent
SDIST = ("kubernetes_validate-1.36.0.tar.gz", "edbfd2db9e88b571029aa16ab1116c6502ad2b9628b6738dd39d639323f84715")
CRATE = ("k8s-pb-0.9.0.crate", "43b6ba14400b62feaa58ebbbd32ce2d9a4601339b2820af393f68033b9cea620")
SCHEMAS = "kubernetes_validate-1.36.0/src/kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json"

# Definitions that are one value on the wire, not a structure. The shape is what the schema engine calls it.
SCALARS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "microtime",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "fields",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch": "any",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "json",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "schemaorarray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "schemaorbool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "schemaorstrings",
}


def download(name):
    """The package by its registry's ordinary client, which knows where the registry is: pip, or cargo for a crate."""
    folder = pathlib.Path(tempfile.mkdtemp())
    if name.endswith(".crate"):
        package, version = name.removesuffix(".crate").rsplit("-", 1)
        manifest = f'[package]\nname = "x"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\n{package} = "={version}"\n'
        (folder / "Cargo.toml").write_text(manifest)
        (folder / "src").mkdir()
        (folder / "src/lib.rs").write_text("")
        home = {**os.environ, "CARGO_HOME": str(folder / "home")}
        subprocess.run(["cargo", "fetch", "--quiet"], cwd=folder, env=home, check=True)
    else:
        package = name.removesuffix(".tar.gz").replace("_", "-").rsplit("-", 1)
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, "==".join(package)], check=True)
    return next(folder.rglob(name))


def load(source, path):
    name, digest = source
    path = pathlib.Path(path) if path else download(name)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        sys.exit(f"{path}: sha256 is {found}, not {digest}")
    return tarfile.open(fileobj=io.BytesIO(data), mode="r:gz")


def served(name):
    """GA versions and the machinery; alpha and beta kinds are not served."""
    return not re.search(r"\.v\d+(alpha|beta)\d+\.", name)


# --- protobuf ---------------------------------------------------------------------------------------------------------


def plain(name):
    """JSON and prost spell names differently; only letters and digits count."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_messages(crate):
    """{definition name in lower case, as prost respells HTTPGetAction: {plain field name: (tag, prost kind, rust type, rust name, doc)}}"""
    messages = {}
    for member in crate.getmembers():
        found = re.fullmatch(r"k8s-pb-0\.9\.0/src/(.*)/mod\.rs", member.name)
        if not found:
            continue
        parts = found.group(1).split("/")
        prefix = "io.k8s." + ".".join(parts)
        prefix = prefix.replace("apiextensions_apiserver", "apiextensions-apiserver").replace("kube_aggregator", "kube-aggregator")
        text = crate.extractfile(member).read().decode()
        for struct in re.finditer(r"^pub struct (\w+) \{(\}|(.*?)^\})", text, re.S | re.M):
            fields = {}
            pattern = r"((?:^ *///[^\n]*\n)*) *#\[prost\((.*?)\)\]\s*pub (?:r#)?(\w+):\s*(.*?),\n(?= *(?:///|#|\}|$))"
            for field in re.finditer(pattern, (struct.group(3) or "") + "}", re.S | re.M):
                comment, attribute, name, rust = field.groups()
                tag = re.search(r'tag\s*=\s*"(\d+)"', attribute).group(1)
                kind = re.sub(r"\s+", " ", attribute).strip().split(", tag")[0]
                doc = [line.strip()[3:].strip() for line in comment.splitlines()]
                rust = re.sub(r"\s+", "", rust).replace(",>", ">")
                fields[plain(name)] = (tag, kind, rust, name, " ".join(d for d in doc if not d.startswith("+")))
            messages[f"{prefix}.{struct.group(1)}".lower()] = fields
    return messages


def message_of(rust, prefix, messages):
    """The definition that a prost type names."""
    inner = re.sub(r"^.*<(.*?)>+$", r"\1", rust)
    tail = inner.split("::")
    if len(tail) == 1:
        return f"{prefix}.{tail[0]}".lower()
    path = ".".join(p for p in tail if p != "super")
    path = path.replace("apiextensions_apiserver", "apiextensions-apiserver").replace("kube_aggregator", "kube-aggregator")
    for candidate in messages:
        if candidate.endswith("." + path.lower()):
            return candidate
    return None


def tags_of(name, properties, messages):
    """{json name: "3" or "2.1"}: a dot leads into a message whose fields JSON shows at the parent's level."""
    own = messages.get(name.lower()) or messages.get(name.lower().replace(".v1.", ".v1beta1."), {})  # v1 is new in 1.36
    own = dict(own)
    short = name.rsplit(".", 1)[1]
    for json_name, tag in EXTRA_TAGS.get(short, {}).items():
        own[plain(json_name)] = (tag, "", "", json_name, "")
    known = {plain(WIRE_NAMES.get(p, p)) for p in properties}
    result = {}
    for json_name in properties:
        key = plain(WIRE_NAMES.get(json_name, json_name))
        if key in own:
            result[json_name] = own[key][0]
    for key, (tag, _, rust, field, _) in own.items():
        if key in known or (short.lower(), field) not in {(m.lower(), f) for m, f in INLINE}:
            continue
        inner = message_of(rust, name.rsplit(".", 1)[0], messages)
        for json_name, path in tags_of(inner, properties, messages).items():
            result.setdefault(json_name, f"{tag}.{path}")
    return result


# --- schema -----------------------------------------------------------------------------------------------------------


def shape(node):
    """s string, b bool, i int32, l int64, d double, y bytes, [X list, {X map, @name definition, * anything."""
    if "$ref" in node:
        return "@" + node["$ref"].rsplit("/", 1)[1]
    kind = node.get("type")
    if isinstance(kind, list):
        kind = next(k for k in kind if k != "null")
    if kind == "array":
        return "[" + shape(node["items"])
    if kind == "object":
        return "{" + shape(node["additionalProperties"]) if "additionalProperties" in node else "{*"
    if kind == "string":
        return "y" if node.get("format") == "byte" else "s"
    if kind == "integer":
        return {"int32": "i", "int64": "l"}[node["format"]]
    return {"boolean": "b", "number": "d", None: "*"}[kind]


def field_attributes(definition, name, node, required, tag):
    short = definition.rsplit(".", 1)[1]
    out = []
    if name in required:
        out.append("required")
    if tag:
        out.append("tag:" + tag)
    qualified = ".".join(definition.rsplit(".", 3)[1:])
    def listed(table):
        return name in table.get(qualified, table.get(short, ()))

    if listed(OMIT_ZERO):
        out.append("omitzero")
    if listed(POINTERS):
        out.append("pointer")
    if listed(ALWAYS) or (name == "metadata" and "$ref" in node and name not in required):
        out.append("always")
    if listed(OMITTED):
        out.append("omitted")
    if (go := GO_TYPES.get(qualified, GO_TYPES.get(short, {})).get(name)) is not None:
        out.append("go:" + go)
    if "x-kubernetes-list-type" in node:
        out.append("list:" + node["x-kubernetes-list-type"])
    if "x-kubernetes-list-map-keys" in node:
        out.append("keys:" + ",".join(node["x-kubernetes-list-map-keys"]))
    if "x-kubernetes-map-type" in node:
        out.append("map:" + node["x-kubernetes-map-type"])
    if "x-kubernetes-patch-strategy" in node:
        out.append("strategy:" + node["x-kubernetes-patch-strategy"])
    if "x-kubernetes-patch-merge-key" in node:
        out.append("key:" + node["x-kubernetes-patch-merge-key"])
    if (value := LIST_DEFAULTS.get((short, name))) is not None:
        out.append("default:" + value)
    if name not in ("kind", "apiVersion") and "enum" in node:
        out.append("enum:" + ",".join(v for v in node["enum"] if v is not None))
    return " ".join(out)


def query_definition(name, messages):
    """Kinds that the package lacks since they are only query parameters, from their protobuf messages."""
    prefix = name.rsplit(".", 1)[0]
    properties = {
        "kind": {"type": "string"},
        "apiVersion": {"type": "string"},
    }
    for tag, kind, rust, field, doc in messages[name.lower()].values():
        json_name = re.sub(r"_(\w)", lambda m: m.group(1).upper(), field)
        json_name = {"insecureSkipTlsVerifyBackend": "insecureSkipTLSVerifyBackend"}.get(json_name, json_name)
        if kind.startswith("message"):
            node = {"$ref": "/" + "io.k8s.apimachinery.pkg.apis.meta.v1.Time"}
        elif kind.startswith("string, repeated"):
            node = {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"}
        elif kind.startswith("int32, repeated"):
            node = {"type": "array", "items": {"type": "integer", "format": "int32"}, "x-kubernetes-list-type": "atomic"}
        elif kind.startswith("int"):
            node = {"type": "integer", "format": kind.split(",")[0]}
        else:
            node = {"type": {"string": "string", "bool": "boolean"}[kind.split(",")[0]]}
        properties[json_name] = {**node, "description": doc}
    group, version = ("", "v1") if ".core." in name else ("meta.k8s.io", "v1")
    return {
        "type": "object",
        "properties": properties,
        "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": name.rsplit(".", 1)[1]}],
    }


def answer_definition(name, messages, names):
    """Kinds that the package lacks since only answers have them, from their protobuf messages. `names` are those of all definitions."""
    properties = {"kind": {"type": "string"}, "apiVersion": {"type": "string"}} if ANSWER_KINDS[name] else {}
    for tag, kind, rust, field, doc in messages[name.lower()].values():
        json_name = re.sub(r"_(\w)", lambda m: m.group(1).upper(), field)
        of_message = kind.startswith("message")
        node = {"$ref": "/" + names[message_of(rust, name.rsplit(".", 1)[0], messages)]} if of_message else {"type": "string"}
        if "repeated" in kind:
            node = {"type": "array", "items": node, "x-kubernetes-list-type": "atomic"}
        properties[json_name] = {**node, "description": doc}
    return {"type": "object", "properties": properties}


def escape(text):
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def main():
    arguments = sys.argv[1:] + [None, None]
    sdist, crate = load(SDIST, arguments[0]), load(CRATE, arguments[1])
    definitions = json.loads(sdist.extractfile(SCHEMAS).read())["$defs"]
    definitions = {name: value for name, value in definitions.items() if served(name)}
    messages = read_messages(crate)
    for name in QUERY_KINDS:
        definitions[name] = query_definition(name, messages)
    names = {name.lower(): name for name in [*definitions, *ANSWER_KINDS]}
    for name in ANSWER_KINDS:
        definitions[name] = answer_definition(name, messages, names)

    texts = {}
    for definition in definitions.values():
        for node in [definition, *definition.get("properties", {}).values()]:
            text = node.get("description", "")
            texts[text] = texts.get(text, 0) + 1
    shared = {text: f"~{i}" for i, text in enumerate(sorted(t for t, n in texts.items() if n > 3 and len(t) > 20))}

    def described(node):
        text = node.get("description", "")
        return shared.get(text) or escape(text)

    lines = [
        "# Schema data of Kubernetes 1.36 (GA kinds), made by generate.py; do not edit. Apache-2.0, see NOTICE.",
        "# T id text | D definition shape attributes text | F field type attributes text; separated by tabs, sorted by name.",
    ]
    lines += [f"T\t{mark[1:]}\t{escape(text)}" for text, mark in shared.items()]
    missing = []
    for name in sorted(definitions):
        definition = definitions[name]
        attributes = [f"gvk:{g['group']}/{g['version']}/{g['kind']}" for g in definition.get("x-kubernetes-group-version-kind", [])]
        attributes += [f"answer:{version}/{name.rsplit('.', 1)[1]}" for version in ANSWER_KINDS.get(name, [])]
        if definition.get("x-kubernetes-map-type"):
            attributes.append("map:" + definition["x-kubernetes-map-type"])
        if definition.get("x-kubernetes-unions"):
            attributes.append("unions:" + json.dumps(definition["x-kubernetes-unions"], separators=(",", ":"), sort_keys=True))
        form = SCALARS.get(name, "struct")
        lines.append("\t".join(["D", name, form, " ".join(attributes), described(definition)]))
        if form != "struct":
            continue
        properties = definition.get("properties", {})
        tags = tags_of(name, properties, messages)
        typed = bool(definition.get("x-kubernetes-group-version-kind") or ANSWER_KINDS.get(name))
        for field in sorted(properties):
            node = properties[field]
            if field not in tags and not (typed and field in ("kind", "apiVersion")):
                missing.append(f"{name}.{field}")
            attributes = field_attributes(name, field, node, definition.get("required", []), tags.get(field))
            lines.append("\t".join(["F", field, shape(node), attributes, described(node)]))
    (HERE / "kubernetes.txt").write_text("\n".join(lines) + "\n")
    print(f"{len(definitions)} definitions; {len(missing)} fields without a protobuf tag:", *missing, sep="\n  ")


if __name__ == "__main__":
    main()
