"""The C++ itself: built for other machines, watched by sanitizers, on PyTorch's own threads."""

import ctypes
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.tolerance import TOLERANCE

from unrolled.kernels import library, linear, regularised, step
from unrolled.streaming import interface

SOURCES = Path(__file__).parents[2] / "csrc"
COMMON = ("streaming", "dispatch", "memory", "kept", "layout")
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
ISAS = {
    "portable": [],
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
}


def built(compiler, flags, isas, folder, optimised="-O1", once=()):
    """The library as CMake builds it, for these instruction sets, with other flags: its object files.

    Flags `once` are for what every processor runs, and not for the same source again with the instructions of some.
    """
    units = [("isa", [optimised, f"-DUNROLLED_ISA={isa}", *(ISAS[isa] or once)], f"isa_{isa}") for isa in isas]
    units += [(name, ["-O1", *once, *(f"-DUNROLLED_HAS_{isa}" for isa in isas)], name) for name in COMMON]
    folder.mkdir(exist_ok=True)

    def compile_unit(unit):
        source, more, name = unit
        command = [compiler, "-std=gnu++17", "-w", *flags, *more, "-c", SOURCES / f"{source}.cpp"]
        subprocess.run([*command, "-o", folder / f"{name}.o"], check=True)
        return folder / f"{name}.o"

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_unit, units))


def checked(program, flags, objects, folder):
    """One of the programs of csrc/check, linked with these and run."""
    source = SOURCES / "check" / f"{program}.cpp"
    subprocess.run(
        ["g++", "-std=gnu++17", "-O1", "-w", *flags, source, *objects, "-o", folder / program, "-lpthread"], check=True
    )
    return subprocess.run([folder / program], capture_output=True, text=True)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_there_is_one_openmp_runtime_in_the_process():
    # In a process of its own: other packages that tests import, such as scikit-learn, may bring a runtime for themselves.
    code = (
        "import torch, unrolled\n"
        "from unrolled.kernels import library\n"
        "torch.set_num_threads(2)\n"
        "unrolled.LSTM(32, 64)(torch.randn(20, 16, 32))[0].sum().backward()\n"
        "print(library.shares_threads())\n"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if '/' in line}, sep='\\n')\n"
    )
    shares, *mapped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shares == "True"
    assert len([p for p in mapped if any(n in Path(p).name for n in ("libgomp", "libiomp5", "libomp"))]) <= 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="written for x86-64")
@pytest.mark.slow
def test_sanitizers_find_nothing_in_any_kernel(tmp_path):
    # Compiling is most of the work: with -O1 it takes three times as long, and looking for undefined behaviour doubles it.
    flags = ["-g1", "-fsanitize=address", "-DUNROLLED_CHECK_MEMORY"]
    undefined = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    objects = built("g++", flags, ISAS, tmp_path, optimised="-O0", once=undefined)
    flags += undefined
    with ThreadPoolExecutor(2) as pool:
        for ran in pool.map(lambda program: checked(program, flags, objects, tmp_path), ("all_kernels", "all_steps")):
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "calls" in ran.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.slow
def test_threads_at_once_do_not_race(tmp_path):
    """For one instruction set: what is kept between calls, and the meetings of threads in one, are the same for all."""
    flags = ["-g1", "-fsanitize=thread"]
    ran = checked("several_threads", flags, built("g++", flags, ["portable"], tmp_path, optimised="-O0"), tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


ARM64 = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@pytest.mark.skipif(ARM64 is None, reason="no arm64 cross compiler (apt: g++-aarch64-linux-gnu)")
def test_the_kernels_compile_for_arm64(tmp_path):
    built(ARM64, ["-fPIC", "-fno-exceptions", "-fno-rtti"], ["portable"], tmp_path)


@pytest.mark.skipif(ARM64 is None, reason="no arm64 cross compiler (apt: g++-aarch64-linux-gnu)")
@pytest.mark.skipif(EMULATOR is None, reason="nothing here runs arm64 programs (apt: qemu-user-static)")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.slow
def test_arm64_computes_what_this_machine_computes(tmp_path):
    """Every portable kernel over odd sizes, emulated, and the sum of its float64 results beside this machine's."""

    def ran(compiler, emulator):
        folder, program = tmp_path / Path(compiler).name, tmp_path / Path(compiler).name / "all_kernels"
        objects = built(compiler, [], ["portable"], folder)
        source = SOURCES / "check" / "all_kernels.cpp"
        command = [compiler, "-std=gnu++17", "-O1", "-w", "-static", source, *objects, "-o", program, "-lpthread"]
        subprocess.run(command, check=True)
        printed = subprocess.run([*emulator, program, "portable"], capture_output=True, text=True, check=True).stdout
        calls, total = re.fullmatch(r"(\d+) calls, sum (\S+)\n", printed).groups()
        return int(calls), float(total)

    with ThreadPoolExecutor(2) as pool:
        there, here = pool.map(ran, (ARM64, shutil.which("g++")), ([EMULATOR], []))
    assert there[0] == here[0] > 1000
    torch.testing.assert_close(there[1], here[1], **TOLERANCE[torch.float64])


def structures():
    return [library._Args, linear._Args, regularised._Args, step._Args, interface.Spec, interface.Choice, interface.Call]


@pytest.mark.parametrize("structure", structures(), ids=lambda structure: structure.c_name)
def test_python_has_every_structure_as_the_headers_have_it(structure):
    """And notices any one field that is missing, of another size or somewhere else."""
    compiled = library.loaded()
    library.check_layout(compiled, structure)
    fields = structure._fields_
    other = {ctypes.c_int32: ctypes.c_int64, ctypes.c_double: ctypes.c_int32}
    wrong = [fields[:-1], [*fields, ("more", ctypes.c_int64)], [fields[1], fields[0], *fields[2:]]]
    wrong += [[*fields[:k], (name, other.get(kind, ctypes.c_int32)), *fields[k + 1 :]] for k, (name, kind) in enumerate(fields)]
    for altered in wrong:
        one = type("Altered", (ctypes.Structure,), {"_fields_": altered, "c_name": structure.c_name})
        with pytest.raises(ImportError, match="Install unrolled again"):
            library.check_layout(compiled, one)


def test_a_library_from_before_layouts_could_be_asked_for_is_refused():
    with pytest.raises(ImportError, match="Install unrolled again"):
        library.check_layout(ctypes.CDLL(None), library._Args)


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        library.use_isa("mmx")


def test_the_peak_of_the_machine_is_positive():
    assert library.fma_peak(torch.float32, 1, 0.01) > 1e8
