"""What the scripts in this folder share: where the peer is, how to run it, and the models made from one GGUF file."""
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "tests" / "data"
CACHE = Path(os.environ.get("COTVALVE_PEER_DIR")
             or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotvalve" / "peer")
MODELS = Path(os.environ.get("COTVALVE_PEER_MODELS") or CACHE / "models")
# Truth: no fused attention, nothing rounded in the cache. One thread, because the barriers of two spin, and on a
# machine with other work that costs far more than the second thread brings.
TRUTH = ["--fa", "off", "--kv", "f32", "-t", "1"]
TYPES = ("q4_0", "q4_1", "q8_0", "q5_0", "q5_1", "q4_k_m", "q5_k_m", "q6_k", "q2_k", "q3_k_m", "iq4_nl", "iq4_xs",
         "mxfp4")


def run_peer(*args, **kwargs):
    """Runs the peer's driver and returns what it printed."""
    version()
    command = [str(CACHE / "peer"), *map(str, args)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **kwargs).stdout


def version():
    """The release of llama.cpp that `install` fetched."""
    if not (CACHE / "version").exists():
        sys.exit(f"no llama.cpp under {CACHE}: run benches/peer/install, or set COTVALVE_PEER_DIR")
    return (CACHE / "version").read_text().strip()


def requantize(source, target, kind, embedding):
    if not target.exists():
        part = target.with_suffix(".part")
        run_peer("requantize", "-m", source, "--out", part, "--type", kind, "--embd", embedding)
        part.rename(target)
    return target


def quantized_model(q4_1, kind):
    """The model with its seven linears as `kind` and its tied embedding as Q8_0; `q4_1` is the published file."""
    if kind == "q4_1":
        return Path(q4_1)
    return requantize(float_model(q4_1, "q4_1"), MODELS / f"smollm2-{kind}.gguf", kind, "q8_0")


def float_model(q4_1, kind):
    """The weights of `quantized_model(q4_1, kind)`, dequantized to F32."""
    MODELS.mkdir(parents=True, exist_ok=True)
    name = "smollm2-f32.gguf" if kind == "q4_1" else f"smollm2-{kind}-f32.gguf"
    return requantize(quantized_model(q4_1, kind), MODELS / name, "f32", "f32")


def float_adapter(adapter):
    """`adapter` with F32 factors: against F16 ones llama.cpp rounds the activations to F16."""
    import gguf
    import numpy as np
    MODELS.mkdir(parents=True, exist_ok=True)
    target = MODELS / (Path(adapter).stem + "-f32.gguf")
    if target.exists():
        return target
    reader = gguf.GGUFReader(adapter)
    writer = gguf.GGUFWriter(target.with_suffix(".part"), reader.fields["general.architecture"].contents())
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", reader.fields["adapter.lora.alpha"].contents())
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
    write(writer)
    target.with_suffix(".part").rename(target)
    return target


def write(writer):
    """Writes all that a GGUF writer was given, and closes its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gsm8k():
    """The problems of the committed slice: dicts of `question` and `answer`."""
    return [json.loads(line) for line in (DATA / "gsm8k-slice.jsonl").read_text().splitlines()]


def token_ids():
    """The 512 committed token ids."""
    return json.loads((DATA / "llama-cpp" / "ids-512.json").read_text())
