"""Pickles that are not loadable here: (bytes of the pickle, opcode at fault, global at fault or None)."""

from __future__ import annotations

import collections
import pickle
import struct

from tests.engine.convert.pickles import (
    FLOATS,
    ORDERED,
    REBUILD,
    named,
    pid,
    program,
    tensor,
    text,
    weights,
)

CANARY = "/tmp/adapter-registry-canary"
RUN = text(f"touch {CANARY}")
SHORT = b"\x8c"


class Exploit:
    """What a real attacker writes: `__reduce__` of a function and its arguments."""

    def __init__(self, function, *arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


def dumped(protocol, function=eval, argument=f"open({CANARY!r}, 'w')"):
    return pickle.dumps({"a": Exploit(function, argument)}, protocol)


def short(value):
    return SHORT + bytes([len(value)]) + value.encode()


# gadgets that scanners with a list of bad names have missed, one after the other
GADGETS = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("subprocess", "check_output"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "compile"), ("builtins", "getattr"), ("builtins", "open"),
    ("builtins", "__import__"), ("__builtin__", "eval"), ("importlib", "import_module"), ("runpy", "run_path"),
    ("pip", "main"), ("pip._internal", "main"), ("pty", "spawn"), ("socket", "create_connection"),
    ("urllib.request", "urlopen"), ("webbrowser", "open"), ("shutil", "rmtree"), ("ctypes", "CDLL"), ("code", "interact"),
    ("logging", "FileHandler"), ("pydoc", "pipepager"), ("idlelib.run", "Executive"), ("uuid", "_get_command_stdout"),
    ("imaplib", "IMAP4_stream"), ("_osx_support", "_read_output"), ("timeit", "timeit"), ("cProfile", "run"),
    ("bdb", "Bdb.run"), ("operator", "attrgetter"), ("operator", "methodcaller"), ("functools", "partial"),
    ("types", "FunctionType"), ("marshal", "loads"), ("pickle", "loads"), ("_pickle", "loads"), ("copyreg", "_reconstructor"),
    ("_codecs", "encode"), ("collections", "Counter"), ("collections", "OrderedDict.fromkeys"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.serialization", "load"), ("torch.jit", "load"),
    ("torch.storage", "_load_from_bytes"), ("torch.utils.collect_env", "run"), ("torch._dynamo.guards", "GuardBuilder.get"),
    ("torch.utils._config_module", "load_config"), ("torch.cuda", "FloatStorage"), ("torch", "Tensor"), ("torch", "device"),
    ("torch._tensor", "_rebuild_from_type_v2"), ("torch._utils", "_rebuild_sparse_tensor"),
    ("torch._utils", "_rebuild_qtensor"), ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"), ("torch._utils", "_rebuild_wrapper_subclass"),
    ("torch._utils", "_import_dotted_name"), ("torch.nn.modules.linear", "Linear"), ("torch.fx.graph", "CodeGen"),
    ("numpy", "load"), ("numpy.core.multiarray", "_reconstruct"), ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.crackfortran", "getlincoef"), ("numpy", "ndarray"), ("joblib", "load"), ("dill._dill", "_create_function"),
    ("cloudpickle.cloudpickle", "_make_function"), ("fickling.hook", "remove_hook"), ("sys", "exit"), ("_io", "FileIO"),
    ("peft.tuners.lora.layer", "Linear"), ("adapter_registry_canary_module", "run"),
]  # fmt: skip

BY_NAME = {
    f"GLOBAL {module}.{name}": (program(named(module, name), b"(", RUN, b"tR"), "GLOBAL", f"{module}.{name}")
    for module, name in GADGETS
}

OPCODES = {
    "os.system by STACK_GLOBAL": (program(short("os"), short("system"), b"\x93", RUN, b"\x85R"), "SHORT_BINUNICODE", None),
    "a computed name": (program(text("os"), text("system"), b"\x93", RUN, b"\x85R"), "STACK_GLOBAL", None),
    "a name through the memo": (
        program(text("os"), b"q\x00", text("system"), b"q\x01", b"h\x00h\x01\x93", RUN, b"\x85R"), "STACK_GLOBAL", None,
    ),
    "INST": (program(b"(", RUN, b"ios\nsystem\n"), "INST", "os.system"),
    "OBJ": (program(b"(", ORDERED, RUN, b"o"), "OBJ", None),
    "NEWOBJ": (program(ORDERED, b")\x81"), "NEWOBJ", None),
    "NEWOBJ_EX": (program(ORDERED, b")}\x92"), "NEWOBJ_EX", None),
    "EXT1": (program(b"\x82\x01"), "EXT1", None),
    "EXT2": (program(b"\x83\x01\x01"), "EXT2", None),
    "EXT4": (program(b"\x84\x01\x01\x01\x01"), "EXT4", None),
    "PERSID": (program(b"Pstorage\n"), "PERSID", None),
    "a pickle in bytes": (program(b"B", struct.pack("<I", 4), b"cos\n"), "BINBYTES", None),
    "a pickle in short bytes": (program(b"C\x04cos\n"), "SHORT_BINBYTES", None),
    "a pickle in long bytes": (program(b"\x8e", struct.pack("<Q", 4), b"cos\n"), "BINBYTES8", None),
    "a bytearray": (program(b"\x96", struct.pack("<Q", 1), b"x"), "BYTEARRAY8", None),
    "a buffer out of band": (program(b"\x97"), "NEXT_BUFFER", None),
    "text by repr": (program(b"S'os'\n"), "STRING", None),
    "a number by repr": (program(b"I" + b"9" * 5000 + b"\n"), "INT", None),
    "a huge number by repr": (program(b"L" + b"9" * 100_000 + b"L\n"), "LONG", None),
    "a huge number": (program(b"\x8b", struct.pack("<I", 2**31 - 1)), "LONG4", None),
    "a number of 17 bytes": (program(b"\x8a\x11" + b"\1" * 17), "LONG1", None),
    "a float": (program(b"G" + bytes(8)), "BINFLOAT", None),
    "a set": (program(b"\x8f"), "EMPTY_SET", None),
    "DUP": (program(b"}2"), "DUP", None),
    "POP": (program(b"}}0"), "POP", None),
    "POP_MARK": (program(b"}(1"), "POP_MARK", None),
    "DICT": (program(b"(d"), "DICT", None),
    "LIST": (program(b"(l"), "LIST", None),
    "no such opcode": (program(b"\xff"), "0xff", None),
    "a frame": (program(b"\x95", struct.pack("<Q", 1), b"}"), "FRAME", None),
    "MEMOIZE": (program(b"}\x94"), "MEMOIZE", None),
    "no PROTO": (b"}.", "EMPTY_DICT", None),
    "PROTO twice": (program(b"\x80\x02}"), "PROTO", None),
    **{f"protocol {number}": (program(b"}", protocol=number), "PROTO", None) for number in (0, 1, 3, 4, 5, 255)},
}  # fmt: skip

WRITTEN = {
    "eval, protocol 0": (dumped(0), "MARK", None),
    "eval, protocol 1": (dumped(1), "EMPTY_DICT", None),
    "eval, protocol 2": (dumped(2), "GLOBAL", "__builtin__.eval"),
    "eval, protocol 3": (dumped(3), "PROTO", None),
    "eval, protocol 4": (dumped(4), "PROTO", None),
    "eval, protocol 5": (dumped(5), "PROTO", None),
    "a Counter": (pickle.dumps(collections.Counter("a"), 2), "GLOBAL", "collections.Counter"),
    "a set of text": (pickle.dumps({"a"}, 2), "GLOBAL", "__builtin__.set"),
}

CALLS = {
    "a storage is called": (program(FLOATS, b")R"), "REDUCE", None),
    "a dtype is called": (program(named("torch", "float32"), b")R"), "REDUCE", None),
    "text is called": (program(text("os.system"), RUN, b"\x85R"), "REDUCE", None),
    "a tensor is called": (weights(tensor() + b")R"), "REDUCE", None),
    "OrderedDict of items": (program(ORDERED, b"]\x85R"), "REDUCE", "collections.OrderedDict"),
    "arguments in a list": (program(ORDERED, b"]R"), "REDUCE", "collections.OrderedDict"),
    "a tensor of too few arguments": (weights(tensor(rest=b"\x89")), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "a tensor with a metadata hook": (
        weights(tensor(rest=b"\x89" + ORDERED + b")R}")), "REDUCE", "torch._utils._rebuild_tensor_v2",
    ),
    "a tensor with hooks": (
        weights(tensor(rest=b"\x89" + ORDERED + b")R" + text("h") + ORDERED + b"s")), "REDUCE",
        "torch._utils._rebuild_tensor_v2",
    ),
    "a tensor of no storage": (weights(tensor(text("0"))), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "a tensor of a function": (weights(tensor(REBUILD)), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "a negative offset": (weights(tensor(offset=b"J\xff\xff\xff\xff")), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "an offset behind the end": (weights(tensor(offset=b"K\x01")), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "a shape behind the end": (
        weights(tensor(shape=b"K\x03K\x03\x86")), "REDUCE", "torch._utils._rebuild_tensor_v2",
    ),
    "strides behind the end": (
        weights(tensor(stride=b"K\x04K\x01\x86")), "REDUCE", "torch._utils._rebuild_tensor_v2",
    ),
    "a shape that repeats one element": (
        weights(tensor(shape=b"J\0\0\0\x40J\0\0\0\x40\x86", stride=b"K\x00K\x00\x86")), "REDUCE",
        "torch._utils._rebuild_tensor_v2",
    ),
    "a shape of booleans": (weights(tensor(shape=b"\x88\x88\x86")), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "a shape that is a list": (weights(tensor(shape=b"](K\x02K\x03e")), "REDUCE", "torch._utils._rebuild_tensor_v2"),
    "more dimensions than any": (
        weights(tensor(shape=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t")), "REDUCE",
        "torch._utils._rebuild_tensor_v2",
    ),
    "a size of 2 to the 100": (
        weights(tensor(shape=b"\x8a\x0d" + bytes(12) + b"\x10K\x03\x86")), "REDUCE", "torch._utils._rebuild_tensor_v2",
    ),
    "untyped bytes as a typed tensor": (
        weights(tensor(pid(named("torch.storage", "UntypedStorage")))), "REDUCE", "torch._utils._rebuild_tensor_v2",
    ),
    "a parameter of no tensor": (
        weights(named("torch._utils", "_rebuild_parameter") + b"(" + text("x") + b"\x88" + ORDERED + b")RtR"), "REDUCE",
        "torch._utils._rebuild_parameter",
    ),
}  # fmt: skip

IDS = {
    "an id that is text": (program(text("storage"), b"Q"), "BINPERSID", None),
    "an id that is a number": (program(b"K\x00Q"), "BINPERSID", None),
    "an id that names a module": (
        program(b"(", text("module"), ORDERED, text("f.py"), text("source"), b"tQ"), "BINPERSID", None,
    ),
    "an id of a class": (program(pid(ORDERED)), "BINPERSID", None),
    "a key that is a path": (program(pid(key="../../etc/passwd")), "BINPERSID", None),
    "a key that is no ASCII digit": (program(pid(key="\u0661")), "BINPERSID", None),
    "a count that is negative": (program(pid(count=b"J\xff\xff\xff\xff")), "BINPERSID", None),
    "a count that is true": (program(pid(count=b"\x88")), "BINPERSID", None),
    "a count that is enormous": (program(pid(count=b"\x8a\x09" + b"\xff" * 8 + b"\x00")), "BINPERSID", None),
    "the meta device": (program(pid(location="meta")), "BINPERSID", None),
    "one storage described in two ways": (
        program(b"}(", text("a"), tensor(), text("b"), tensor(pid(named("torch", "LongStorage"))), b"u"), "BINPERSID", None,
    ),
    "a view of a storage": (program(pid(more=b"N")), "BINPERSID", None),
}  # fmt: skip

STATES = {
    "state of a tensor": (weights(tensor() + b"}b"), "BUILD", None),
    "state of a dictionary": (program(b"}}b"), "BUILD", None),
    "state of a function": (program(ORDERED, b"}" + text("__code__") + RUN + b"sb"), "BUILD", None),
    "a method put over another": (program(ORDERED, b")R}", text("keys"), text("x"), b"sb"), "BUILD", None),
    "state that is a tuple": (program(ORDERED, b")R}}\x86b"), "BUILD", None),
}

SHAPES = {
    "items of a list": (program(b"]K\x00K\x00s"), "SETITEM", None),
    "items of a tensor": (weights(tensor() + text("x") + b"Ns"), "SETITEM", None),
    "a key that is a number": (program(b"}K\x00K\x00s"), "SETITEM", None),
    "a key that is a tuple": (program(b"})K\x00s"), "SETITEM", None),
    "a name that stands twice": (program(b"}(", text("a"), b"N", text("a"), b"Nu"), "SETITEMS", None),
    "a key without a value": (program(b"}(", text("a"), b"u"), "SETITEMS", None),
    "an item for no list": (program(b"}Na"), "APPEND", None),
    "items for no list": (program(b"}(Ne"), "APPENDS", None),
    "text that is no UTF-8": (program(b"}", text(b"\xed\xa0\x80"), b"Ns"), "BINUNICODE", None),
    "text that announces 4 GB": (program(b"X\xff\xff\xff\xffabc"), None, None),
    "a name of a megabyte": (program(b"c" + b"o" * 2**20 + b"\nsystem\n"), None, None),
    "a name that is no ASCII": (program("cos\u200b\nsystem\n".encode()), None, None),
    "a name without an end": (b"\x80\x02cos", None, None),
    "no end": (b"\x80\x02}", None, None),
    "nothing": (b"", None, None),
    "an argument cut off": (b"\x80\x02M\x01", None, None),
    "an empty stack": (program(), "STOP", None),
    "more than one value": (program(b"}}"), "STOP", None),
    "a mark that is left": (program(b"(}"), "STOP", None),
    "a tuple of nothing": (program(b"\x87"), "TUPLE3", None),
    "a tuple without a mark": (program(b"t"), "TUPLE", None),
    "a memo that is empty": (program(b"h\x07"), "BINGET", None),
    "a memo far away": (program(b"j\xff\xff\xff\x7f"), "LONG_BINGET", None),
    "a memo of nothing": (program(b"q\x00"), "BINPUT", None),
    "a million marks": (program(b"(" * 1_000_000), "MARK", None),
    "a million values": (program(b"}" * 1_000_000), "EMPTY_DICT", None),
    "doubling through the memo": (program(b"}", text("a"), b")", b"q\x00h\x00\x86" * 10_000, b"s"), None, None),
    "a dictionary in itself": (program(b"}q\x00", text("a"), b"h\x00s"), None, None),
    "no dictionary": (program(tensor()), None, None),
    "a list of tensors": (program(b"]", tensor(), b"a"), None, None),
    "an adapter under a key": (program(b"}", text("state_dict"), b"}", text("a"), tensor(), b"ss"), None, None),
    "a number among tensors": (program(b"}(", text("a"), tensor(), text("step"), b"K\x07u"), None, None),
    "a function among tensors": (weights(ORDERED), None, None),
    "the name of the header's own entry": (weights(key="__metadata__"), None, None),
    "a name of 5,000 letters": (weights(key="a" * 5000), None, None),
    "a second pickle behind": (weights() + program(named("os", "system"), RUN, b"\x85R"), None, None),
    "bytes behind": (weights() + b"\0", None, None),
}

LONG = {"a million marks", "a million values"}
OLDER = {**BY_NAME, **OPCODES, **WRITTEN}
PICKLES = {**BY_NAME, **OPCODES, **WRITTEN, **CALLS, **IDS, **STATES, **SHAPES}
