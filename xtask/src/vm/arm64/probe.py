"""What an arm64 kernel takes of the eBPF object: one line of JSON a program, after `PROBE `.

The daemon has its own loader, which there is no compiler for here; libbpf reads the same object. All programs are loaded at once;
what libbpf says it cannot load is left out, and the others are tried again. Each that is loaded is attached as well and taken off.
"""

import ctypes
import json
import os
import re
import struct
import sys

POINTER = ctypes.c_void_p
# struct bpf_prog_info, linux/bpf.h
VERIFIED_INSNS = 216
INFO_BYTES = 232

bpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
for function, result in {
    "bpf_object__open_file": POINTER,
    "bpf_object__next_program": POINTER,
    "bpf_program__name": ctypes.c_char_p,
    "bpf_program__section_name": ctypes.c_char_p,
    "bpf_program__attach": POINTER,
    "bpf_program__attach_cgroup": POINTER,
}.items():
    getattr(bpf, function).restype = result


def programs(opened):
    """Name, section and handle of each program."""
    program = bpf.bpf_object__next_program(POINTER(opened), None)
    while program:
        handle = POINTER(program)
        yield bpf.bpf_program__name(handle).decode(), bpf.bpf_program__section_name(handle).decode(), handle
        program = bpf.bpf_object__next_program(POINTER(opened), handle)


def functions():
    """Every function of the kernel."""
    with open("/proc/kallsyms") as symbols:
        return {line.split()[2] for line in symbols}


def loaded(path, without):
    """The object with all programs but these, or what libbpf said."""
    opened = bpf.bpf_object__open_file(path.encode(), None)
    for name, _, handle in programs(opened):
        bpf.bpf_program__set_autoload(handle, ctypes.c_bool(name not in without))
    log = os.memfd_create("log")
    kept = os.dup(2)
    os.dup2(log, 2)
    failed = bpf.bpf_object__load(POINTER(opened))
    os.dup2(kept, 2)
    os.close(kept)
    said = os.pread(log, 1 << 24, 0).decode(errors="replace")
    os.close(log)
    if failed:
        bpf.bpf_object__close(POINTER(opened))
        return None, said
    return opened, said


def verified(handle):
    info, size = ctypes.create_string_buffer(INFO_BYTES), ctypes.c_uint32(INFO_BYTES)
    if bpf.bpf_obj_get_info_by_fd(bpf.bpf_program__fd(handle), info, ctypes.byref(size)):
        return None
    return struct.unpack_from("I", info, VERIFIED_INSNS)[0]


def attached(handle, section, cgroup):
    """Why it cannot be attached, or nothing."""
    ctypes.set_errno(0)
    of_cgroup = section.startswith(("cgroup", "sockops"))
    link = bpf.bpf_program__attach_cgroup(handle, cgroup) if of_cgroup else bpf.bpf_program__attach(handle)
    if not link:
        return "attaching: " + os.strerror(ctypes.get_errno())
    bpf.bpf_link__destroy(POINTER(link))
    return None


def main(path):
    known = functions()
    opened = bpf.bpf_object__open_file(path.encode(), None)
    every = [(name, section) for name, section, _ in programs(opened)]
    bpf.bpf_object__close(POINTER(opened))
    # Of a call that has no 32-bit form of its own there is no function.
    absent = {name for name, section in every if section.startswith("fentry/") and section[7:] not in known}
    refused = {}
    while True:
        opened, said = loaded(path, absent | refused.keys())
        if opened:
            break
        failed = re.search(r"prog '(\w+)': (failed to .*)", said)
        if not failed or failed[1] in refused:
            sys.exit("libbpf says no and names no program:\n" + said[-4000:])
        print(said[-2000:])
        refused[failed[1]] = failed[2]
    handles = {name: handle for name, _, handle in programs(opened)}
    cgroup = os.open("/sys/fs/cgroup", os.O_RDONLY)
    for name, section in every:
        line = {"name": name, "hook": section, "state": "loaded"}
        if name in absent:
            line |= {"state": "unused", "detail": "the kernel has no such function"}
        elif name in refused:
            line |= {"state": "refused", "detail": refused[name]}
        elif why := attached(handles[name], section, cgroup):
            line |= {"state": "refused", "detail": why}
        else:
            line |= {"verified_insns": verified(handles[name])}
        print("PROBE", json.dumps(line), flush=True)


main(sys.argv[1])
