"""The C++ itself: built for other machines, watched by sanitizers, on PyTorch's own threads."""

import ctypes
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.kernels import agree
from tests.tolerance import TOLERANCE

from unrolled.kernels import library, linear, regularised
from unrolled.streaming import streamer

SOURCES = Path(__file__).parents[2] / "csrc"
AVX512 = ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
AVX2 = ["-mavx2", "-mfma"]
UNITS = {
    "dispatch": [],
    "memory": ["-DUNROLLED_CHECK_MEMORY"],
    "kept": [],
    "layout": [],
    "isa_portable": [],
    "isa_avx2": AVX2,
    "isa_avx512": AVX512,
    "isa_avx512_bf16": [*AVX512, "-mavx512bf16"],
    "streaming": [],
    "streaming_isa_portable": [],
    "streaming_isa_avx2": AVX2,
    "streaming_isa_avx512": AVX512,
    "streaming_isa_avx512_vnni": [*AVX512, "-mavx512vnni"],
    "streaming_isa_avx512_bf16": [*AVX512, "-mavx512bf16"],
    "regularised": [],
    "regularised_isa_portable": [],
    "regularised_isa_avx2": AVX2,
    "regularised_isa_avx512": AVX512,
}


def optimised(unit):
    """The largest units take g++ three times as long with -O1 under a sanitizer, which their checks do not make up for."""
    return "-O0" if unit.startswith("isa_") else "-O1"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_there_is_one_openmp_runtime_in_the_process(threads):
    threads(2)
    given = agree.inputs("LSTM", (20, 16, 32, 64))
    agree.by_kernels("LSTM", given)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    assert len([p for p in mapped if any(n in Path(p).name for n in ("libgomp", "libiomp5", "libomp"))]) <= 1
    assert library.shares_threads()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="written for x86-64")
@pytest.mark.slow
def test_sanitizers_find_nothing_in_any_kernel(tmp_path):
    flags = ["-std=gnu++17", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-w", "-DUNROLLED_X86"]

    def compile_unit(unit):
        how = [*flags, optimised(unit), *UNITS[unit]]
        subprocess.run(["g++", *how, "-c", SOURCES / f"{unit}.cpp", "-o", tmp_path / f"{unit}.o"], check=True)

    def check(program):
        source, objects = SOURCES / "check" / f"{program}.cpp", [tmp_path / f"{unit}.o" for unit in UNITS]
        subprocess.run(["g++", *flags, "-O1", source, *objects, "-o", tmp_path / program, "-lpthread"], check=True)
        return subprocess.run([tmp_path / program], capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_unit, UNITS))
        for ran in pool.map(check, ("all_kernels", "all_steps")):
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "calls" in ran.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.slow
def test_threads_at_once_do_not_race(tmp_path):
    """For one instruction set: what is kept between calls, and the meetings of threads in one, are the same for all."""
    flags = ["-std=gnu++17", "-g1", "-fsanitize=thread", "-w"]

    def compile_unit(unit):
        how = [*flags, optimised(unit)]
        subprocess.run(["g++", *how, "-c", SOURCES / f"{unit}.cpp", "-o", tmp_path / f"{Path(unit).name}.o"], check=True)

    units = ["isa_portable", "streaming_isa_portable", "streaming", "dispatch", "memory", "kept", "check/several_threads"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_unit, units))
    objects = [tmp_path / f"{Path(unit).name}.o" for unit in units]
    subprocess.run(["g++", *flags, *objects, "-o", tmp_path / "several_threads", "-lpthread"], check=True)
    ran = subprocess.run([tmp_path / "several_threads"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


ARM64 = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
PORTABLE = ("dispatch", "memory", "kept", "isa_portable")


@pytest.mark.skipif(ARM64 is None, reason="no arm64 cross compiler (apt: g++-aarch64-linux-gnu)")
def test_the_kernels_compile_for_arm64(tmp_path):
    def compile_unit(unit):
        flags = ["-std=gnu++17", "-O1", "-w", "-fPIC", "-fno-exceptions", "-fno-rtti"]
        subprocess.run([ARM64, *flags, "-c", SOURCES / f"{unit}.cpp", "-o", tmp_path / f"{unit}.o"], check=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_unit, (*PORTABLE, "streaming", "streaming_isa_portable")))


@pytest.mark.skipif(ARM64 is None, reason="no arm64 cross compiler (apt: g++-aarch64-linux-gnu)")
@pytest.mark.skipif(EMULATOR is None, reason="nothing here runs arm64 programs (apt: qemu-user-static)")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.slow
def test_arm64_computes_what_this_machine_computes(tmp_path):
    """Every portable kernel over odd sizes, emulated, and the sum of its float64 results beside this machine's."""

    def ran(compiler, emulator):
        program = tmp_path / Path(compiler).name
        sources = [*(SOURCES / f"{unit}.cpp" for unit in PORTABLE), SOURCES / "check" / "all_kernels.cpp"]
        command = [compiler, "-std=gnu++17", "-O1", "-w", "-static", *sources, "-o", program, "-lpthread"]
        subprocess.run(command, check=True)
        printed = subprocess.run([*emulator, program, "portable"], capture_output=True, text=True, check=True).stdout
        calls, total = re.fullmatch(r"(\d+) calls, sum (\S+)\n", printed).groups()
        return int(calls), float(total)

    with ThreadPoolExecutor(2) as pool:
        there, here = pool.map(ran, (ARM64, shutil.which("g++")), ([EMULATOR], []))
    assert there[0] == here[0] > 1000
    torch.testing.assert_close(there[1], here[1], **TOLERANCE[torch.float64])


def structures():
    return [library._Args, linear._Args, regularised._Args, streamer._Spec, streamer._Choice, streamer._Call, streamer._Watched]


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
