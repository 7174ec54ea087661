#!/usr/bin/env bash
# Collects the wheels that benchmarks/gpu.py needs on a machine without a network that has PyTorch, transformers and Lightning.
#
#   benchmarks/gpu_wheels.sh [FOLDER] [CUDA]      FOLDER: .whl unless given; CUDA: cu130 unless given, as torch.version.cuda says
#
# For Python 3.12 on Linux x86_64. Versions are those of constraints.txt. On that machine, in this order:
#   python -m pip install --no-index --no-deps FOLDER/*.whl
#   PYTHONPATH=src python benchmarks/gpu.py
set -euo pipefail

folder=${1:-.whl}
cuda=${2:-cu130}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)
limit=60 # MiB, of all wheels
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_24_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)

pinned() { grep -iE "^$1==" "$here/constraints.txt"; }
options=(--no-deps --disable-pip-version-check --quiet)

target=$folder
mkdir -p "$target"
folder=$(mktemp -d) # what is in the target stays as it is until everything is there
trap 'rm -rf "$folder"' EXIT
wanted=()
for name in hydra-core omegaconf peft accelerate psutil rich markdown-it-py mdurl Pygments bitsandbytes; do wanted+=("$(pinned $name)"); done
"$python" -m pip download "${options[@]}" --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]/#/--platform=}" --dest "$folder" "${wanted[@]}"
"$python" -m pip wheel "${options[@]}" --wheel-dir "$folder" "$(pinned antlr4-python3-runtime)" # published as source only

# bitsandbytes carries a library for every version of CUDA: one is kept.
"$python" - "$folder"/bitsandbytes-*.whl "${cuda#cu}" <<'PYTHON'
import base64, hashlib, re, sys, zipfile
from pathlib import Path

wheel, cuda = Path(sys.argv[1]), sys.argv[2]
library = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so")
with zipfile.ZipFile(wheel) as archive:
    files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
there = {found[1] for name in files if (found := library.fullmatch(name))}
if f"cuda{cuda}" not in there:
    versions = ", ".join(sorted(name.replace("cuda", "cu") for name in there if name.startswith("cuda")))
    raise SystemExit(f"{wheel.name} has no library for cu{cuda}; it has {versions}")
kept = {f"cuda{cuda}", "cpu"}
files = {name: data for name, data in files.items() if not (found := library.fullmatch(name)) or found[1] in kept}
record = next(name for name in files if name.endswith(".dist-info/RECORD"))
del files[record]
lines = [
    f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
    for name, data in files.items()
]
files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
smaller = wheel.with_suffix(".part")
with zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in files.items():
        info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        info.external_attr = 0o644 << 16
        archive.writestr(info, data, zipfile.ZIP_DEFLATED)
smaller.replace(wheel)
PYTHON

du -b "$folder"/*.whl | awk -v limit="$limit" '
    { sub(".*/", "", $2); printf "%8.2f MiB  %s\n", $1 / 1048576, $2; sum += $1 }
    END {
        printf "%8.2f MiB  in all\n", sum / 1048576
        if (sum > limit * 1048576) { print "more than " limit " MiB" > "/dev/stderr"; exit 1 }
    }'
for wheel in "$folder"/*.whl; do
    name=$(basename "$wheel")
    rm -f "$target/${name%%-*}"-*.whl # two versions of a package stop the installation
    cp "$wheel" "$target"
done
