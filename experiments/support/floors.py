"""The least that a training step can take on a GPU, by what its matrix products have to do and by
how long a step of time has to wait for the one before.

The products: their FLOPs (`contenders.flops_per_step`) at the peak of the device's tensor cores,
dense, as the makers' data sheets have it. Of a device that is not below, the measured rate of a
large product stands for the peak.

The latency is an estimate, not a measurement: `STEP_S` is what passes at the least until a step's
state has gone through a product and reached every multiprocessor, 1 to 2.5 microseconds in the
forward pass and 3 to 6 in both. The layers of a stack may work one step of time behind each other.
So T steps of time and L layers wait T + L - 1 times. The floor takes the lower end of the estimate.
"""

from typing import NamedTuple

FORWARD_STEP_S = (1e-6, 2.5e-6)
STEP_S = (3e-6, 6e-6)  # forward and backward
PRODUCTS, LATENCY = "products", "latency"

# TFLOP/s with float32 read as TF32, and with bfloat16 or float16, by the beginning of the name
# that JAX has for the device.
PEAKS = {
    "NVIDIA H100 80GB HBM3": (494.7, 989.4),
    "NVIDIA H200": (494.7, 989.4),
    "NVIDIA A100": (156.0, 312.0),
}


class Peak(NamedTuple):
    """FLOP/s by precision, and where they are from."""

    float32: float
    narrow: float  # bfloat16 and float16
    source: str

    def of(self, precision: str) -> float:
        return self.float32 if precision == "float32" else self.narrow


class Floor(NamedTuple):
    """Seconds of a training step at the least."""

    products_s: float
    latency_s: tuple[float, float]

    @property
    def seconds(self) -> float:
        return max(self.products_s, self.latency_s[0])

    @property
    def kind(self) -> str:
        return PRODUCTS if self.products_s >= self.latency_s[0] else LATENCY


def peak_of(device: str, float32: float, narrow: float) -> Peak:
    """The device's peak; of one that is not known the rates of a large product, given here."""
    for name, teraflops in PEAKS.items():
        if device.startswith(name):
            return Peak(1e12 * teraflops[0], 1e12 * teraflops[1], "data sheet")
    return Peak(float32, narrow, "large product")


def floor_of(flops: int, steps_of_time: int, layers: int, peak: float) -> Floor:
    """The floor of a training step with so many FLOPs in its products."""
    waits = steps_of_time + layers - 1
    return Floor(flops / peak, (waits * STEP_S[0], waits * STEP_S[1]))
