"""The inspector's questions, asked of a stopped kernel by gdb: `vm maps`, `vm walk`, `vm entry`, `vm dump`.

Nothing of the kernel runs. Page tables are read by their physical addresses, through QEMU's stub; windows and areas are found by the kernel's symbols
and its debug information. The answers have the form of the kernel's own (`vmcore::inspect`), line for line, so that one can be held against the other;
what the bits of an entry mean is written down here once more, from the manual (Intel SDM volume 3A, 5.5), and not taken from the kernel.

    vm maps [PID]                    the windows of a space: the kernel's, or a process's
    vm walk ADDRESS [in PID]         the entries that translate an address
    vm entry ADDRESS [LEVEL] [in PID]
    vm dump [RANGE] [in PID]         what the tables hold, as runs of leaves that are alike

An ADDRESS is a number (0x400000, 4M) or an expression of gdb's; a RANGE is START..END, START+SIZE or an address.
"""

import re
import struct

import gdb

PAGE = 4096
TOP = 1 << 64
LEVELS = ["PT", "PD", "PDPT", "PML4", "PML5"]
MEMORY = {
    "WriteBack": "WB",
    "WriteThrough": "WT",
    "WriteCombining": "WC",
    "WriteProtected": "WP",
    "UncachedMinus": "UC-",
    "Uncached": "UC",
}

# Entries of x86-64.
PRESENT, WRITABLE, USER, PWT, PCD, ACCESSED, DIRTY, LARGE, GLOBAL = (1 << bit for bit in range(9))
NO_EXECUTE = 1 << 63
READ, WRITE, EXECUTE, PROGRAM = 1, 2, 4, 8


def fail(text):
    raise gdb.GdbError(text)


# Values of the kernel's


def deep(value):
    """The number inside of structures of one field each."""
    while True:
        code = value.type.strip_typedefs().code
        if code == gdb.TYPE_CODE_PTR:
            return int(value)
        if code != gdb.TYPE_CODE_STRUCT:
            return int(value)
        fields = [field for field in value.type.fields() if field.type.sizeof != 0]
        if len(fields) != 1:
            fail(f"{value.type} has {len(fields)} fields, and one was expected: does this script belong to this kernel?")
        value = value[fields[0]]


def inside(value, name):
    """The first value of a type of this name, looked for in the fields of structures."""
    if value.type.strip_typedefs().name is not None and re.match(name, value.type.strip_typedefs().name):
        return value
    if value.type.strip_typedefs().code not in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return None
    for field in value.type.fields():
        if field.type.sizeof != 0:
            found = inside(value[field], name)
            if found is not None:
                return found
    return None


def static(name):
    found = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
    if found is None:
        try:
            return gdb.parse_and_eval(name)
        except gdb.error:
            fail(f"there is no symbol {name}: load the kernel's file, as `cargo xtask gdb` does")
    return found.value()


def at(type_name, address):
    return gdb.Value(address).cast(gdb.lookup_type(type_name).pointer()).dereference()


KERNEL = "refkernel::memory::platform::Kernel"
X86_64 = "vmcore::paging::formats::x86_64::X86_64"


class Machine:
    """What the kernel found when it started: the width of physical addresses, and the memory types."""

    def __init__(self):
        mmu = inside(static("refkernel::memory::platform::MACHINE"), r"vmcore::paging::formats::x86_64::X86_64$")
        found = mmu["found"]
        self.beyond = TOP - (1 << int(found["physical_bits"]))
        types = found["memory"]["types"]
        self.types = [MEMORY[str(types[index]).split("::")[-1]] for index in range(8)]
        self.levels = 5 if mmu["five_levels"] else 4
        self.gigabyte_leaves = bool(mmu["gigabyte_leaves"])


class Space:
    """A space of the kernel's, by its record."""

    def __init__(self, handle):
        pointer = deep(handle["inner"])
        self.inner = at(f"vmcore::vm_space::inner::SpaceInner<{KERNEL}, {X86_64}>", pointer)
        self.root = deep(self.inner["root"]) * PAGE
        self.start = deep(self.inner["bounds"]["start"])
        self.last = self.start + int(self.inner["bounds"]["size"]) - 1


def kernel():
    handle = inside(static("refkernel::memory::kernel_space::SPACE"), r"vmcore::vm_space::Space<")
    return Space(handle)


def processes():
    """Processes by their numbers."""
    places = static("refkernel::process::PROCESSES")["places"]
    first, last = places.type.range()
    for index in range(first, last + 1):
        if deep(places[index]["count"]) not in (0, 0xFFFF_FFFF):
            yield index + 1, inside(places[index]["value"], r"refkernel::process::Process$")


def process(pid):
    for known, value in processes():
        if known == pid:
            return Space(value["space"])
    fail(f"there is no process {pid}")


def space_of(address, pid):
    if pid is not None:
        return process(pid)
    if address is None or address >= 1 << 47:
        return kernel()
    known = list(processes())
    if len(known) != 1:
        fail(f"{address:#x} is a program's address: say whose, as `in PID`")
    return Space(known[0][1]["space"])


# Tables


def table(physical):
    """The 512 words at a physical address."""
    gdb.execute("maintenance packet Qqemu.PhyMemMode:1", to_string=True)
    try:
        return struct.unpack("<512Q", gdb.selected_inferior().read_memory(physical, PAGE).tobytes())
    finally:
        gdb.execute("maintenance packet Qqemu.PhyMemMode:0", to_string=True)


def write_physical(physical, word):
    """Changes a word behind the kernel's back: for who knows that nobody uses it."""
    gdb.execute("maintenance packet Qqemu.PhyMemMode:1", to_string=True)
    try:
        gdb.selected_inferior().write_memory(physical, struct.pack("<Q", word))
    finally:
        gdb.execute("maintenance packet Qqemu.PhyMemMode:0", to_string=True)


def letters(access):
    return "".join(letter if access & bit else "-" for bit, letter in ((READ, "r"), (WRITE, "w"), (EXECUTE, "x"), (PROGRAM, "u")))


class Leaf:
    def __init__(self, machine, level, word):
        pat = 1 << 7 if level == 0 else 1 << 12
        code = (1 if word & PWT else 0) | (2 if word & PCD else 0) | (4 if word & pat else 0)
        mask = ((1 << 52) - (1 << (12 + 9 * level))) & ~machine.beyond
        self.frame = (word & mask) // PAGE
        self.access = READ | (WRITE if word & WRITABLE else 0) | (0 if word & NO_EXECUTE else EXECUTE) | (PROGRAM if word & USER else 0)
        self.memory = machine.types[code]
        self.globally, self.accessed, self.dirty = bool(word & GLOBAL), bool(word & ACCESSED), bool(word & DIRTY)
        self.software, self.key = word >> 9 & 7, word >> 59 & 15

    def alike(self):
        """What leaves of a run have in common."""
        return (self.access, self.memory, self.globally, self.software, self.key)

    def marks(self):
        text = "".join(f" {name}" for known, name in ((self.globally, "global"), (self.accessed, "accessed"), (self.dirty, "dirty")) if known)
        if self.software:
            text += f" software {self.software:#x}"
        return text + (f" key {self.key}" if self.key else "")

    def __str__(self):
        return f"frame {self.frame:#x} {letters(self.access)} {self.memory}{self.marks()}"


class Limits:
    """What tables let through, to programs and to the kernel."""

    def __init__(self, word=WRITABLE | USER):
        kernel = READ | (WRITE if word & WRITABLE else 0) | (0 if word & NO_EXECUTE else EXECUTE)
        self.kernel, self.user = kernel, (kernel | PROGRAM if word & USER else 0)

    def all(self):
        return self.user == READ | WRITE | EXECUTE | PROGRAM

    def both(self, other):
        limits = Limits()
        limits.kernel, limits.user = self.kernel & other.kernel, self.user & other.user
        return limits

    def apply(self, access):
        """What is left of a leaf's access."""
        return access & (self.user if access & PROGRAM else self.kernel)

    def __str__(self):
        if self.user & ~PROGRAM == self.kernel:
            return letters(self.user)
        return f"{letters(self.user)} to programs and {letters(self.kernel)} to the kernel"


def decode(machine, level, word):
    """What a word means: its kind, and a table's address or a leaf."""
    if not word & PRESENT:
        return "absent", word >> 1
    can_be_leaf = level in (0, 1) or (level == 2 and machine.gigabyte_leaves)
    is_leaf = level == 0 or bool(word & LARGE)
    address = (1 << 52) - PAGE
    if is_leaf and not can_be_leaf:
        return "reserved", None
    if word & address & machine.beyond:
        return "reserved", None
    if not is_leaf:
        return "table", word & address & ~machine.beyond
    if level > 0 and word & ((1 << (12 + 9 * level)) - (1 << 13)):
        return "reserved", None
    return "leaf", Leaf(machine, level, word)


def is_canonical(machine, address):
    top = address >> (11 + 9 * machine.levels)
    return top == 0 or top == (1 << (64 - 11 - 9 * machine.levels)) - 1


def steps(machine, root, address):
    """The entries on the way down: level, table, index, word, kind, content."""
    found = []
    if not is_canonical(machine, address):
        return found
    place = root
    for level in reversed(range(machine.levels)):
        index = address >> (12 + 9 * level) & 511
        word = table(place)[index]
        kind, content = decode(machine, level, word)
        found.append((level, place, index, word, kind, content))
        if kind != "table":
            break
        place = content
    return found


def size_text(count, width=0):
    unit, name = 1, "B"
    for shift, candidate in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and count % (1 << shift) == 0:
            unit, name = 1 << shift, candidate
            break
    return f"{count // unit:>{max(width - len(name) - 1, 0)}} {name}" if width else f"{count // unit} {name}"


def show_walk(machine, root, address):
    print(f"walk of {address:#018x}")
    limits = Limits()
    end = "  nothing is mapped there" if is_canonical(machine, address) else "  no such address: it is not canonical"
    for level, place, index, word, kind, content in steps(machine, root, address):
        line = f"  {LEVELS[level]:<5} at {place:#014x} [{index:>3}] = {word:#018x}  "
        if kind == "absent":
            line += "absent" if content == 0 else f"absent, holds {content:#x}"
        elif kind == "reserved":
            line += "malformed: reserved bits are set"
            end = "  any access faults on the malformed entry"
        elif kind == "leaf":
            line += f"leaf: {content}"
            size = PAGE << 9 * level
            start = address - address % size
            physical = content.frame * PAGE | address % size
            access = letters(limits.apply(content.access))
            end = f"  leads to {physical:#x}, {access} {content.memory}, by a leaf of {size >> 10} KiB from {start:#x}"
        else:
            line += f"table at {content:#x}"
            own = Limits(word)
            limits = limits.both(own)
            if not own.all():
                line += f", lets through {own}"
        print(line)
    print(end)


def bits_text(mask):
    parts, bit = [], 0
    while bit < 64:
        if mask >> bit & 1:
            end = bit
            while end < 63 and mask >> (end + 1) & 1:
                end += 1
            parts.append(f"{bit}-{end}" if end > bit else f"{bit}")
            bit = end
        bit += 1
    return ("bit " if mask.bit_count() == 1 else "bits ") + ", ".join(parts)


def show_entry(machine, level, word):
    kind, content = decode(machine, level, word)
    line = f"{word:#018x} in {LEVELS[level]}: "
    if kind == "absent":
        print(line + ("absent" if content == 0 else f"absent, holds {content:#x}"))
        return
    if kind == "table":
        line += f"a table at {content:#x}"
    elif kind == "leaf":
        line += f"a leaf of {size_text(PAGE << 9 * level)}: {content}"
    else:
        line += "malformed, an access faults on it"
    print(line)
    is_leaf = level == 0 or (bool(word & LARGE) and level < 3)
    rows = [(PRESENT, "present", None), (WRITABLE, "writable", None), (USER, "for programs", None)]
    if is_leaf:
        pat = 1 << 7 if level == 0 else 1 << 12
        memory = content.memory if kind == "leaf" else None
        rows.append((PWT | PCD | pat, "memory type", f" {memory}" if memory else ""))
        rows += [(ACCESSED, "accessed", None), (DIRTY, "dirty", None)]
        if level:
            rows.append((LARGE, "a leaf", None))
        rows += [(GLOBAL, "global", None), (7 << 9, "software", f" {word >> 9 & 7:#x}")]
        low = 12 + 9 * level
        if level:
            rows.append((((1 << low) - (1 << 13)), "reserved", "set"))
        rows.append((15 << 59, "protection key", f" {word >> 59 & 15}"))
    else:
        low = 12
        if level >= 3:
            rows.append((LARGE, "reserved", "set"))
    mask = ((1 << 52) - (1 << low)) & ~machine.beyond
    rows.append((mask, "address", f" {word & mask:#x}"))
    rows.append((((1 << 52) - 1) & machine.beyond, "reserved: beyond the physical width", "set"))
    rows.append((NO_EXECUTE, "not executable", None))
    left = word
    for mask, text, value in sorted(rows, key=lambda row: row[0] & -row[0]):
        if not word & mask:
            continue
        named = word & mask if value == "set" else mask
        print(f"  {bits_text(named):<19} {text}{value if value not in (None, 'set') else ''}")
        left &= ~mask
    if left:
        print(f"  {bits_text(left):<19} without a meaning here")


def leaves(machine, root, start, last):
    """What is not absent between two addresses, in order: first and last address, level, kind, content."""

    def visit(place, level, base, limits):
        size = PAGE << 9 * level
        for index, word in enumerate(table(place)):
            first = base + index * size
            if level == machine.levels - 1 and index >= 256:
                first |= TOP - (1 << (12 + 9 * machine.levels))
            end = first + size - 1
            if word == 0 or end < start or first > last:
                continue
            kind, content = decode(machine, level, word)
            if kind == "absent":
                continue
            if kind == "table":
                yield from visit(content, level - 1, first, limits.both(Limits(word)))
                continue
            shown = (max(first, start), min(end, last))
            if kind == "leaf":
                content.frame += (shown[0] - first) // PAGE
                content.access = limits.apply(content.access)
                yield *shown, level, kind, content
            else:
                yield *shown, level, kind, word

    yield from visit(root, machine.levels - 1, 0, Limits())


def show_dump(machine, root, start, last):
    runs = []
    for run in leaves(machine, root, start, last):
        first, end, level, kind, content = run
        if runs and kind == "leaf":
            before = runs[-1]
            pages = (before[1] + 1 - before[0]) // PAGE
            if (
                before[3] == "leaf"
                and before[2] == level
                and before[1] + 1 == first
                and before[4].frame + pages == content.frame
                and before[4].alike() == content.alike()
            ):
                before[1] = end
                before[4].accessed |= content.accessed
                before[4].dirty |= content.dirty
                continue
        runs.append(list(run))
    mapped = 0
    for first, end, level, kind, content in runs:
        line = f"{first:#018x}-{end:#018x}"
        size = PAGE << 9 * level
        if kind == "leaf":
            mapped += end + 1 - first
            line += f" -> {content.frame * PAGE:#014x} {letters(content.access)} {content.memory:<5}"
            if (end + 1 - first) % size == 0:
                line += f" {(end + 1 - first) // size:>7} x {size_text(size, 7)}"
            else:
                line += f" part of   {size_text(size, 7)}"
            line += content.marks()
        else:
            line += f" malformed: {content:#018x} in {LEVELS[level]}"
        print(line)
    print(f"{len(runs)} runs, {size_text(mapped)} mapped, x86-64")


# Windows and areas


def words(address, count):
    return struct.unpack(f"<{count}Q", gdb.selected_inferior().read_memory(address, 8 * count).tobytes())


def resident(link, first, count):
    """How many pages of a tree's part from `first` on have a frame. The nodes are drawn in `vmcore/src/page_tree/node.rs`."""
    if link == 0 or count == 0:
        return 0
    node, shift = link & ~63, link & 62
    present, _, runs, base_and_size, _ = words(node, 5)
    base, is_full = base_and_size & ~63, base_and_size & 3 not in (0, 1)
    slots = words(node + (64 if is_full else 40), 64 if is_full else present.bit_count())
    sum_of, rank = 0, 0
    for index in range(64):
        if not present >> index & 1:
            continue
        slot = slots[index if is_full else rank]
        rank += 1
        key, span = base + (index << shift), 1 << shift
        low, high = max(key, first), min(key + span, first + count)
        if low >= high:
            continue
        if shift == 0 or runs >> index & 1:
            # Bit 1 of a page: it has a frame.
            sum_of += high - low if slot & 2 else 0
        else:
            sum_of += resident(slot, first, count)
    return sum_of


def windows(space):
    """The ranges of a space's index, in order, each with its window's address or 0."""
    tree = space.inner["index"]
    tree = inside(tree, r"vmcore::vm_space::index::tree::Tree<")
    node = deep_pointer(tree["root"])
    if node == 0:
        return
    leaf_type = gdb.lookup_type(str(inside_type(tree.type, r"vmcore::vm_space::index::leaf::Leaf<\d+>")))
    inner_type = gdb.lookup_type(str(inside_type(tree.type, r"vmcore::vm_space::index::inner::Inner<\d+>")))
    for _ in range(int(tree["height"])):
        inner = gdb.Value(node).cast(inner_type.pointer()).dereference()
        node = deep_pointer(inner["children"][0])
    while node:
        leaf = gdb.Value(node).cast(leaf_type.pointer()).dereference()
        for place in range(int(leaf["header"]["len"])):
            rest = leaf["rests"][place]
            yield int(rest["first"]), int(leaf["lasts"][place]), deep_pointer(rest["pointer"])
        node = deep_pointer(leaf["next"])


def inside_type(kind, name):
    """The type of this name that an index is made with: its numbers are those of the tree's type."""
    numbers = re.search(r"Tree<(\d+), (\d+)>", kind.strip_typedefs().name)
    return name.replace(r"<\d+>", f"<{numbers.group(1) if 'Leaf' in name else numbers.group(2)}>")


def deep_pointer(value):
    """The address in an optional pointer; 0 if there is none. Both have the size of a word."""
    return int.from_bytes(gdb.selected_inferior().read_memory(int(value.address), 8).tobytes(), "little")


def show_maps(space):
    count, total, pages = 0, 0, 0
    for first, last, pointer in windows(space):
        size = last + 1 - first
        access, name, tail, shown = 0, "foreign", "", 0
        if pointer:
            window = at(f"vmcore::vm_space::window::Window<{KERNEL}, {X86_64}>", pointer)
            area = at(f"vmcore::vm_area::inner::AreaInner<{KERNEL}>", deep(window["area"]))
            view = window["view"]
            access = deep(view["own"]["access"])
            start, number = (int(view[f"{which}_low"]) | int(view[f"{which}_high"]) << 32 for which in ("first", "count"))
            name = str(inside(area["state"], r"vmcore::vm_area::inner::AreaTraits$")["tag"]).split("::")[-1].lower()
            name = "private" if name == "overlay" else name
            if name == "fixed":
                shown = number
                # Its kind stands in the second record.
                kind = str(at(f"vmcore::vm_area::rest::AreaSpecial<{KERNEL}>", deep(area["rest"]))["kind"])
                frame = int(re.search(r"Frame ?\((\d+)\)", kind).group(1))
                memory = MEMORY[re.search(r"MemoryType::(\w+)", kind).group(1)]
                tail = f"  {memory} from frame {frame:#x}"
            else:
                if name != "untracked":
                    state = inside(area["state"], r"vmcore::vm_area::inner::AreaState<")
                    link = int(state["tree"]["root"]["__0"])
                    shown = pages_of(state, link, start, number)
                tail = f"  {shown} resident"
            if start:
                tail += f", from offset {start * PAGE:#x}"
            # WindowFlags::SEALED
            if deep(view["own"]["flags"]) & 1:
                tail += ", sealed"
            if str(view["own"]["state"]).endswith("Gated"):
                tail += ", waiting for a flush"
        print(f"{first:#018x}-{last:#018x} {letters(access)} {name:<9} {size_text(size, 9)}{tail}")
        count, total, pages = count + 1, total + size, pages + shown
    print(f"{count} windows, {size_text(total)} shown, {pages} pages resident")


def pages_of(state, link, first, count):
    # AreaMarks::RING
    if not deep(state["marks"]) & 4:
        return resident(link, first, count)
    ring = (int(state["pages_low"]) | int(state["pages_high"]) << 32) // 2
    low, end = min(first, ring), first + count
    return resident(link, low, min(end, ring) - low) + resident(link, max(first - ring, 0), max(end - ring, 0) - max(first - ring, 0))


# Commands


def number(word):
    """A number as the inspector takes it; else an expression of gdb's."""
    match = re.fullmatch(r"(0x[0-9a-fA-F_]+)|([0-9_]+)([KMG]?)", word)
    if match and match.group(1):
        return int(match.group(1).replace("_", ""), 16)
    if match:
        return int(match.group(2).replace("_", "")) << {"": 0, "K": 10, "M": 20, "G": 30}[match.group(3)]
    try:
        value = gdb.parse_and_eval(word)
        return (int(value.address) if value.address is not None and value.type.sizeof != 8 else int(value)) % TOP
    except gdb.error as error:
        fail(f"`{word}` is no address: {error}")


def split(argument):
    """The words, and the process behind `in`."""
    given = argument.split()
    if len(given) >= 2 and given[-2] == "in":
        return given[:-2], number(given[-1])
    return given, None


class Vm(gdb.Command):
    __doc__ = __doc__

    def __init__(self):
        super().__init__("vm", gdb.COMMAND_DATA, prefix=True)


class Maps(gdb.Command):
    """vm maps [PID]: the windows of a space, the kernel's or a process's."""

    def __init__(self):
        super().__init__("vm maps", gdb.COMMAND_DATA)

    def invoke(self, argument, _):
        given, pid = split(argument)
        pid = number(given[0]) if given else pid
        show_maps(kernel() if pid is None else process(pid))


class Walk(gdb.Command):
    """vm walk ADDRESS [in PID]: the entries that translate an address, level by level."""

    def __init__(self):
        super().__init__("vm walk", gdb.COMMAND_DATA)

    def invoke(self, argument, _):
        given, pid = split(argument)
        if len(given) != 1:
            fail("write `vm walk ADDRESS [in PID]`")
        address = number(given[0])
        show_walk(Machine(), space_of(address, pid).root, address)


class Entry(gdb.Command):
    """vm entry ADDRESS [LEVEL] [in PID]: the last entry of a walk, or that of a level, bit by bit."""

    def __init__(self):
        super().__init__("vm entry", gdb.COMMAND_DATA)

    def invoke(self, argument, _):
        given, pid = split(argument)
        if len(given) not in (1, 2):
            fail("write `vm entry ADDRESS [LEVEL] [in PID]`")
        machine, address = Machine(), number(given[0])
        found = steps(machine, space_of(address, pid).root, address)
        if len(given) == 2:
            found = [step for step in found if step[0] == number(given[1])]
        if not found:
            fail("the walk does not come to that level: ask for its last entry without a level")
        level, place, index, word, _, _ = found[-1]
        print(f"{LEVELS[level]} at {place:#014x} [{index}], at {place + 8 * index:#014x} itself")
        show_entry(machine, level, word)


class Dump(gdb.Command):
    """vm dump [RANGE] [in PID]: what the tables hold, as runs of leaves that are alike."""

    def __init__(self):
        super().__init__("vm dump", gdb.COMMAND_DATA)

    def invoke(self, argument, _):
        given, pid = split(argument)
        if not given:
            space = space_of(None, pid)
            show_dump(Machine(), space.root, space.start, space.last)
            return
        word = given[0]
        if ".." in word:
            start, end = word.split("..", 1)
            start, last = number(start), (number(end) - 1 if end else TOP - 1)
        elif "+" in word:
            start, size = word.rsplit("+", 1)
            start = number(start)
            last = start + number(size) - 1
        else:
            start = number(word) // PAGE * PAGE
            last = start + PAGE - 1
        space = space_of(start, pid)
        first, last = max(start, space.start) // PAGE * PAGE, min(last, space.last) | (PAGE - 1)
        if first > last:
            fail(f"none of that is in the space: it has {space.start:#x}..={space.last:#x}")
        show_dump(Machine(), space.root, first, last)


for command in (Vm, Maps, Walk, Entry, Dump):
    command()
