"""Copies a library with every CPUID instruction made one that traps: trap.py LIBRARY COPY.

For processors whose CPUID cannot fault (AMD's): `mask.c` answers the trap as it would the fault. Both instructions have
two bytes. Needs objdump, to tell instructions from bytes that look like one.
"""

import re
import subprocess
import sys

CPUID, TRAP = b"\x0f\xa2", b"\x0f\x0b"


def objdump(*arguments):
    return subprocess.run(["objdump", *arguments], check=True, capture_output=True, text=True).stdout


def main(library, copy):
    # Index, name, size, address, load address, offset in the file.
    text = next(line.split() for line in objdump("-h", library).splitlines() if " .text " in line)
    start, offset = int(text[3], 16), int(text[5], 16)
    listing = objdump("-d", "--section=.text", "--no-show-raw-insn", library)
    places = [int(at, 16) - start + offset for at in re.findall(r"^\s*([0-9a-f]+):\tcpuid", listing, re.M)]
    content = bytearray(open(library, "rb").read())
    for place in places:
        assert content[place : place + 2] == CPUID, f"no CPUID at {place:#x}"
        content[place : place + 2] = TRAP
    with open(copy, "wb") as file:
        file.write(content)
    print(f"as-cpu: {len(places)} places of {library} trap", file=sys.stderr)


main(*sys.argv[1:])
