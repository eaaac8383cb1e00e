"""What a GPU could reach if every cell acted at every step, predicted from counts; `results/gpu_h100.md` has what one did.

Contract: prints a Markdown table. A trained sample costs 6 operations a parameter and step, and the bytes of
`lattice_jax.lattice.fused.traffic.step_bytes`; the slower of the two bounds counts, at the device's published rates, as if each
was reached in full. Real kernels stay below that and gain from cells at rest; the optimiser's update is left out.

    python benchmarks/gpu_prediction.py > benchmarks/results/gpu_prediction.md
"""

import itertools

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.fused.traffic import step_bytes

DEVICES = {"RTX 5090": (1.79e12, 105e12, 209e12), "H100": (3.35e12, 67e12, 989e12), "H200": (4.8e12, 67e12, 989e12)}
"""Published rates: memory in bytes/s; float32 and dense bfloat16 products with float32 sums in operations/s."""
PRECISIONS = ("float32", "bfloat16")
BATCHES = (32, 64, 256)
HISTORICAL = 67.6
"""Trained samples/s of the earlier implementation on an RTX 5090, at one lattice step a sample."""


def predicted_seconds(config: LatticeConfig, batch: int, device: str, *, fused: bool) -> tuple[float, str]:
    """Seconds of one lattice step, forward and backward, and what bounds them."""
    bandwidth, *rates = DEVICES[device]
    moving = sum(step_bytes(config, batch, fused=fused).values()) / bandwidth
    computing = 6 * cube.parameter_counts(config)["cells"] * batch / rates[PRECISIONS.index(config.precision)]
    return max((moving, "memory"), (computing, "products"))


def main() -> None:
    """The table: both kinds of step, both precisions, with phase 3's steps and with one, as the historical figure has it."""
    print("Predicted, not measured: `python benchmarks/gpu_prediction.py`\n")
    steps = LatticeConfig().steps
    print(f"| device | precision | batch | step | bound by | samples/s, {steps} steps | samples/s, 1 step | times historical |")
    print("|---|---|---|---|---|---|---|---|")
    for device, precision, batch, fused in itertools.product(DEVICES, PRECISIONS, BATCHES, (False, True)):
        seconds, bound = predicted_seconds(LatticeConfig(precision=precision), batch, device, fused=fused)
        rate = batch / seconds
        numbers = f"{rate / steps:,.0f} | {rate:,.0f} | {rate / HISTORICAL:,.0f}"
        print(f"| {device} | {precision} | {batch} | {'fused' if fused else 'by XLA'} | {bound} | {numbers} |")


if __name__ == "__main__":
    main()
