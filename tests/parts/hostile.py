"""Model files that somebody made to do harm, or that lie about themselves; and harmless ones beside them. Nothing here is ever loaded.

    for name, case in CASES.items(): case.files, case.check, case.says

Pickles are written opcode by opcode, so that making them imports nothing either.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """Files of one model, the check that has to object, and words of what it says."""

    check: str
    says: str
    files: dict[str, bytes] = field(default_factory=dict)
    grave: bool = True


# ---------------------------------------------------------------------------------------------------------------- pickles


def text(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def framed(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def call(module: str, name: str, argument: str = "x") -> bytes:
    """Return a pickle (protocol 4) that calls ``module.name(argument)``."""
    return framed(text(module) + text(name) + b"\x93" + text(argument) + b"\x85R")


def old_call(module: str, name: str, argument: str = "x") -> bytes:
    """Return the same in protocol 0."""
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


def memoised(module: str, name: str) -> bytes:
    """Return a pickle that takes module and name from its memo."""
    return framed(text(module) + b"\x94" + b"0" + text(name) + b"\x94" + b"0" + b"h\x00h\x01\x93" + text("x") + b"\x85R")


def computed() -> bytes:
    """Return a pickle that computes the name it imports."""
    return framed(text("os") + b"\x93" [:0] + text("sys") + text("tem") + b"\x86" + b"\x93" + text("x") + b"\x85R")


def zipped(members: dict[str, bytes], *, encrypted: str = "", twice: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, raw in members.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            archive.writestr(info, raw)
        if twice:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(zipfile.ZipInfo(twice, (2026, 1, 1, 0, 0, 0)), members[twice])
    raw = bytearray(out.getvalue())
    if encrypted:
        at = raw.find(b"PK\x01\x02")
        while at >= 0:
            raw[at + 8] |= 1
            at = raw.find(b"PK\x01\x02", at + 4)
        raw[6] |= 1
    return bytes(raw)


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def torch(payload: bytes, **more: bytes) -> bytes:
    return zipped({"archive/data.pkl": payload, "archive/data/0": bytes(64), "archive/version": b"3\n", **more})


def objects() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + call("os", "system")


GADGETS = {
    "os-system": call("os", "system"), "posix-system": call("posix", "system"), "nt-system": call("nt", "system"),
    "subprocess": call("subprocess", "Popen"), "builtins-eval": call("builtins", "eval"), "builtins-exec": call("builtins", "exec"),
    "builtins-getattr": call("builtins", "getattr"), "importlib": call("importlib", "import_module"), "pip-main": call("pip", "main"),
    "timeit": call("timeit", "timeit"), "numpy-f2py": call("numpy.f2py.crackfortran", "myeval"), "ctypes": call("ctypes", "CDLL"),
    "torch-bottleneck": call("torch.utils.bottleneck.__main__", "run_cprofile"), "torch-load": call("torch", "load"),
    "torch-hub": call("torch.hub", "load"), "runpy": call("runpy", "run_path"), "webbrowser": call("webbrowser", "open"),
    "asyncio": call("asyncio.unix_events", "_UnixSubprocessTransport._start"), "pty": call("pty", "spawn"), "code": call("code", "interact"),
    "socket": call("socket", "create_connection"), "shutil": call("shutil", "rmtree"), "operator": call("operator", "attrgetter"),
    "functools": call("functools", "partial"), "types": call("types", "CodeType"), "dotted": call("torch", "_utils.os.system"),
    "whole-module": call("torch.nn.modules.linear", "Linear"), "library": call("sklearn.svm", "SVC"),
    "load-from-bytes": call("torch.storage", "_load_from_bytes"), "storage-alike": call("torch", "FloatStorageX"),
    "old-protocol": old_call("os", "system"), "old-eval": old_call("__builtin__", "eval"), "memo": memoised("os", "system"),
    "inst": b"(S'x'\nios\nsystem\n.", "obj": b"(cos\nsystem\nS'x'\no.", "newobj": framed(text("os") + text("system") + b"\x93)\x81"),
}  # fmt: skip
ALLOWED = framed(text("collections") + text("OrderedDict") + b"\x93)R")


def pickled() -> dict[str, Case]:
    found = {f"gadget-{name}": Case("pickle-imports", "which rebuilding tensors does not need", {"model.bin": raw}) for name, raw in GADGETS.items()}
    evil = call("os", "system")
    told, closed = "which rebuilding tensors does not need", "cannot all be told"
    found |= {
        "pickle-in-torch-zip": Case("pickle-imports", told, {"pytorch_model.bin": torch(evil)}),
        "pickle-in-zip-under-another-name": Case("pickle-imports", told, {"m.pt": zipped({"archive/data/0": evil, "archive/data.pkl": ALLOWED})}),
        "pickle-renamed-to-text": Case("pickle-imports", told, {"vocab.txt": evil}),
        "pickle-renamed-to-weights": Case("safetensors", "well-formed", {"model.safetensors": evil}),
        "pickle-after-a-harmless-one": Case("pickle-imports", told, {"m.bin": ALLOWED + evil}),
        "pickle-cut-after-the-call": Case("pickle-imports", closed, {"m.bin": evil[:-1]}),
        "pickle-with-a-broken-tail": Case("pickle-imports", closed, {"m.pkl": evil[:-1] + b"\xff\xff"}),
        "pickle-computed-name": Case("pickle-imports", closed, {"m.pkl": computed()}),
        "pickle-from-a-registry": Case("pickle-imports", closed, {"m.pkl": framed(b"\x82\x01)R")}),
        "pickle-gzip": Case("pickle-imports", closed, {"m.joblib": gzip.compress(evil, mtime=0)}),
        "pickle-xz": Case("pickle-imports", closed, {"m.pkl.xz": lzma.compress(evil)}),
        "pickle-zlib": Case("pickle-imports", closed, {"m.joblib": zlib.compress(evil)}),
        "pickle-in-tar": Case("pickle-imports", closed, {"m.bin": tarred({"data.pkl": evil})}),
        "pickle-in-zip-in-zip": Case("pickle-imports", closed, {"m.pt": zipped({"inner.zip": torch(evil), "data.pkl": ALLOWED})}),
        "zip-with-one-name-twice": Case("pickle-imports", closed, {"m.pt": zipped({"data.pkl": ALLOWED}, twice="data.pkl")}),
        "zip-encrypted": Case("pickle-imports", closed, {"m.pt": zipped({"data.pkl": evil}, encrypted="data.pkl")}),
        "torchscript": Case("pickle-imports", closed, {"m.pt": torch(ALLOWED, **{"archive/code/__torch__.py": b"import os"})}),
        "numpy-objects": Case("pickles", "array of objects", {"m.npy": objects()}),
        "harmless-pickle": Case("pickles", "is a pickle", {"m.bin": ALLOWED}),
        "named-like-a-pickle": Case("pickles", "named like a pickle", {"m.ckpt": b"nothing of the sort"}),
    }  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------ safetensors


def safetensors(header: object, data: bytes = bytes(16), *, raw: bytes | None = None, length: int | None = None) -> bytes:
    body = raw if raw is not None else json.dumps(header).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + data


def tensor(start: int = 0, end: int = 16, shape: tuple[int, ...] = (4,), dtype: str = "F32", **more: object) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end], **more}


def weights() -> dict[str, Case]:
    half = tensor(0, 8, (2,))
    broken = {
        "key-twice": safetensors(None, raw=b'{"w":' + json.dumps(tensor()).encode() + b',"w":' + json.dumps(tensor()).encode() + b"}"),
        "hole": safetensors({"a": half, "b": tensor(12, 20, (2,))}, bytes(20)),
        "overlap": safetensors({"a": half, "b": tensor(4, 12, (2,))}, bytes(12)),
        "appended": safetensors({"w": tensor()}, bytes(17)),
        "cut": safetensors({"w": tensor()}, bytes(15)),
        "header-too-long": safetensors(None, raw=b"{}", length=1 << 40),
        "header-past-the-end": safetensors(None, raw=b"{}", length=10_000),
        "no-json": safetensors(None, raw=b"{nonsense"),
        "blank-before": safetensors(None, raw=b' {"w":' + json.dumps(tensor()).encode() + b"}"),
        "type-unknown": safetensors({"w": tensor(dtype="F33")}),
        "shape-lies": safetensors({"w": tensor(shape=(5,))}),
        "shape-negative": safetensors({"w": tensor(shape=(-4,))}),
        "shape-huge": safetensors({"w": tensor(shape=(1 << 62, 1 << 62))}),
        "offset-text": safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": ["0", "16"]}}),
        "field-unknown": safetensors({"w": tensor(code="import os")}),
        "metadata-no-text": safetensors({"__metadata__": {"a": 1}, "w": tensor()}),
        "no-tensor": safetensors({"w": [1, 2]}),
        "empty": b"",
        "short": b"\x01\x02",
    }
    found = {f"safetensors-{name}": Case("safetensors", "not a well-formed safetensors file", {"model.safetensors": raw}) for name, raw in broken.items()}
    index = {"metadata": {}, "weight_map": {"w": "model-1.safetensors", "gone": "model-2.safetensors"}}
    found["index-names-a-shard-that-is-not-there"] = Case(
        "safetensors", "", {"model-1.safetensors": safetensors({"w": tensor()}), "model.safetensors.index.json": json.dumps(index).encode()}
    )
    far = {"weight_map": {"w": "../../etc/passwd"}}
    found["index-names-a-file-outside"] = Case(
        "safetensors", "", {"model-1.safetensors": safetensors({"w": tensor()}), "model.safetensors.index.json": json.dumps(far).encode()}
    )
    return found


# -------------------------------------------------------------------------------------------------------------------- GGUF


def string(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value: str | int) -> bytes:
    return string(key) + (struct.pack("<I", 8) + string(value) if isinstance(value, str) else struct.pack("<II", 4, value))


def info(name: str, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape) + struct.pack("<IQ", kind, offset)


def gguf(
    pairs: tuple[bytes, ...] = (), infos: tuple[bytes, ...] = (), data: bytes = b"", *, version: int = 3, tensors: int | None = None, keys: int | None = None
) -> bytes:
    counts = (len(infos) if tensors is None else tensors, len(pairs) if keys is None else keys)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data if infos else head


def files_of_gguf() -> dict[str, Case]:
    one, deep = info("w"), struct.pack("<I", 9)
    nested = string("k") + deep + (deep + struct.pack("<Q", 1)) * 4
    broken = {
        "magic": b"GGML" + gguf()[4:],
        "version": gguf(version=9),
        "keys-announced": gguf(keys=1 << 40),
        "tensors-announced": gguf(tensors=1 << 60),
        "string-announced": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 50),
        "array-announced": gguf((string("k") + deep + struct.pack("<IQ", 0, 1 << 50),)),
        "array-of-texts-announced": gguf((string("k") + deep + struct.pack("<IQ", 8, 1 << 22),)),
        "arrays-nested": gguf((nested,)),
        "type-of-value": gguf((string("k") + struct.pack("<I", 99),)),
        "key-twice": gguf((pair("a", 1), pair("a", 2))),
        "key-no-text": gguf((string(b"\xff\xfe") + struct.pack("<II", 4, 1),)),
        "alignment-zero": gguf((pair("general.alignment", 0),), (one,), bytes(16)),
        "alignment-odd": gguf((pair("general.alignment", 33),), (one,), bytes(16)),
        "dimensions": gguf((), (info("w", (1,) * 9),), bytes(16)),
        "elements-overflow": gguf((), (info("w", (1 << 40, 1 << 40)),), bytes(16)),
        "offset-far": gguf((), (info("w", offset=1 << 40),), bytes(16)),
        "offset-odd": gguf((), (info("w", offset=7),), bytes(64)),
        "overlap": gguf((), (info("a"), info("b")), bytes(64)),
        "hole": gguf((), (info("a"), info("b", offset=64)), bytes(96)),
        "tensor-twice": gguf((), (info("a"), info("a", offset=32)), bytes(64)),
        "tensor-past-the-end": gguf((), (info("a", (4000,)),), bytes(16)),
        "block-broken": gguf((), (info("a", (5,), 2),), bytes(64)),
        "appended": gguf((), (one,), bytes(32) + b"payload"),
        "name-long": gguf((), (info("n" * 500),), bytes(32)),
        "cut": gguf((pair("a", "b" * 100),))[:-20],
        "empty": b"",
    }
    found = {f"gguf-{name}": Case("gguf", "not a well-formed GGUF file", {"model.gguf": raw}) for name, raw in broken.items()}
    found["gguf-under-another-name"] = Case("gguf", "another name", {"weights.dat": gguf((), (one,), bytes(32)), "model.gguf": gguf((), (one,), bytes(32))}, False)
    return found


# ----------------------------------------------------------------------------------- configuration, templates, tokenizers


def config(name: str = "config.json", **values: object) -> dict[str, bytes]:
    return {"model.safetensors": safetensors({"w": tensor()}), name: json.dumps({"model_type": "llama", **values}).encode()}


def template(source: str) -> dict[str, bytes]:
    return config("tokenizer_config.json", chat_template=source)


def tokenizer(**more: object) -> dict[str, bytes]:
    value = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": [], **more}
    return {"model.safetensors": safetensors({"w": tensor()}), "tokenizer.json": json.dumps(value).encode()}


def token(content: str, number: int) -> dict:
    return {"id": number, "content": content, "special": True}


def configured() -> dict[str, Case]:
    code = {
        "auto-map": config(auto_map={"AutoModel": "modeling.Evil"}),
        "auto-map-elsewhere": config(auto_map={"AutoModel": "someone/repo--modeling.Evil"}),
        "auto-map-nested": config(text_config={"vision": [{"auto_map": {"A": "b.C"}}]}),
        "auto-map-of-a-processor": config("processor_config.json", auto_map={"AutoProcessor": "p.P"}),
        "trust-remote-code": config(trust_remote_code=True),
        "attention-kernel": config(_attn_implementation_internal="someone/kernel"),
        "attention-repository": config(attn_implementation="someone/kernel"),
        "model-file": config(model_file="model.py"),
        "pipelines": config(custom_pipelines={"x": {"impl": "a.B"}}),
        "python-file": config() | {"modeling_evil.py": b"import os"},
        "library": config() | {"kernel.so": b"\x7fELF"},
        "modules": config() | {"modules.json": b'[{"idx":0,"type":"evil.Module"}]'},
    }
    found = {f"code-{name}": Case("remote-code", "", files) for name, files in code.items()}
    sources = {
        "class": "{{ ''.__class__.__mro__ }}", "subscript": "{{ messages['__class__'] }}", "attr": "{{ messages|attr('x') }}",
        "map": "{{ messages|map(attribute='__class__')|list }}", "cycler": "{{ cycler.__init__.__globals__ }}", "lipsum": "{{ lipsum(1) }}",
        "include": "{% include 'x' %}", "import": "{% import 'x' as y %}", "from": "{% from 'x' import y %}", "extends": "{% extends 'x' %}",
        "range": "{% for i in range(999999999) %}{% endfor %}", "power": "{{ 10 ** 999999 }}", "times": "{{ 'a' * 99999999 }}",
        "syntax": "{% for %}", "bidi": "{{ 'a\N{RIGHT-TO-LEFT OVERRIDE}b' }}", "tags": "hello \N{TAG LATIN SMALL LETTER A}", "zero": "a\N{ZERO WIDTH SPACE}b",
        "large": "x" * (1 << 21),
    }  # fmt: skip
    found |= {f"template-{name}": Case("chat-template", "", template(source)) for name, source in sources.items()}
    found["template-address"] = Case("chat-template", "address of the web", template("visit https://evil.example"), False)
    found["template-of-two-minds"] = Case("chat-template", "differs between", template("a") | {"chat_template.jinja": b"b"}, False)
    found["template-in-gguf"] = Case("chat-template", "attribute", {"model.gguf": gguf((pair("tokenizer.chat_template", "{{ x.__class__ }}"),))})
    tokens = {
        "no-model": {"model.safetensors": safetensors({"w": tensor()}), "tokenizer.json": b"{}"},
        "number-taken": tokenizer(added_tokens=[token("<|user|>", 0)]),
        "number-moved": tokenizer(added_tokens=[token("a", 7)]),
        "one-number-for-two": tokenizer(added_tokens=[token("<x>", 5), token("<y>", 5)]),
        "token-twice": tokenizer(added_tokens=[token("<x>", 5), token("<x>", 6)]),
        "number-negative": tokenizer(model={"type": "BPE", "vocab": {"a": -1}}),
        "rules-nested": tokenizer(normalizer=json.loads('{"a":' * 40 + "1" + "}" * 40)),
        "two-files-differ": tokenizer(added_tokens=[token("<x>", 5)])
        | {"tokenizer_config.json": json.dumps({"added_tokens_decoder": {"9": {"content": "<x>"}}}).encode()},
    }
    found |= {f"tokenizer-{name}": Case("tokenizer", "", files) for name, files in tokens.items()}
    replace = {"type": "Replace", "pattern": {"String": "not "}, "content": ""}
    stall = {"type": "Split", "pattern": {"Regex": "(a+)+$"}}
    found["tokenizer-rewrites"] = Case("tokenizer", "is read as", tokenizer(normalizer={"type": "Sequence", "normalizers": [replace]}), False)
    found["tokenizer-stalls"] = Case("tokenizer", "take forever", tokenizer(pre_tokenizer=stall), False)
    found["tokenizer-hidden"] = Case("tokenizer", "hidden characters", tokenizer(added_tokens=[token("<x\N{ZERO WIDTH SPACE}>", 5)]), False)
    return found


SECRETS = {
    "hugging-face": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345678", "github": "ghp_" + "a1B2" * 9, "aws": "AKIA" + "Q3EGX7ABCDEFGH2Z",
    "slack": "xoxb-" + "123456789012-abcdefGHIJKL", "google": "AIza" + "Sy0123456789abcdefghijklmnopqrstuvw", "openai": "sk-" + "proj-Ab12" * 6,
    "nvidia": "nvapi-" + "Ab12Cd34" * 8, "gitlab": "glpat-" + "Ab12Cd34Ef56Gh78Ij90", "address": "postgres://admin:S3cretPw9@db.internal/x",
    "private-key": "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ",
}  # fmt: skip


def secret() -> dict[str, Case]:
    return {f"secret-{name}": Case("secrets", "of ", {"gateway.yaml": f"a: 1\nvalue: {value}\n".encode()}) for name, value in SECRETS.items()}


CASES: dict[str, Case] = pickled() | weights() | files_of_gguf() | configured() | secret()
GOOD_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ bos_token }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message.content | trim) }}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}"
    "{% endfor %}{% set ns = namespace(n=0) %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BENIGN: dict[str, dict[str, bytes]] = {
    "plain": config() | {"README.md": b"# a model\n"},
    "template": template(GOOD_TEMPLATE),
    "tokenizer": tokenizer(
        added_tokens=[token("<|im_end|>", 2)],
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        pre_tokenizer={"type": "Split", "pattern": {"Regex": r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"}},
    ),
    "gguf": {"model.gguf": gguf((pair("general.architecture", "llama"), pair("tokenizer.chat_template", GOOD_TEMPLATE)), (info("w", (64,), 2),), bytes(64))},
    "placeholders": {"env.example": b"API_KEY=changeme\nHF_TOKEN=${HF_TOKEN}\nurl: postgres://user:${PASSWORD}@db/x\nmaster_key: os.environ/LITELLM_MASTER_KEY\n"},
}
