"""Estimates training on 8 to 256 devices: bytes, FLOPs, and the all-reduce's share of a step.

python benchmarks/scaling.py [--batch=32] [--measure] [--out=FILE.json]

For each network it prints the number of parameters, the bytes of their gradients, the FLOPs of a
step, the bytes through the device's memory, and the FLOPs a byte of each. For each kind of hardware
it prints the time of a step and the share of it that the exchange of gradients and batch statistics
takes. `--measure` also times a step on this machine's device. `docs/scaling.md` draws the
conclusions.

The model, all of whose constants are below:

- A step is forward and backward, three times the forward FLOPs. It takes as long as its FLOPs or
  its bytes, whichever is longer, at `ATTAINED` of the data sheet's peak.
- Each convolution's output is written and read forward; backward it is read again, and its gradient
  is written and read: five times, in bfloat16. Everything between two convolutions counts as fused.
  The optimizer reads parameter, gradient and two moments, and writes all but the gradient: seven
  times four bytes a parameter. This is the least that must be moved.
- Gradients are float32. Their all-reduce is bound by bandwidth (each device sends and receives
  2 (n - 1) / n of the bytes) plus latency, and hides behind nothing.
- Batch normalization over the global batch is two small all-reduces that everything waits for, one
  forward, one backward: latency.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence

from flax import nnx

import cases
import subject
from wbc_jax.models import describe
from wbc_jax.utils import atomic

DEVICES = (8, 16, 32, 64, 128, 256)
ATTAINED = {"flops": 0.4, "memory": 0.8}
"""Assumed shares of the data sheet's peaks: of convolutions, and of memory."""
GRADIENT_BYTES = PARAMETER_BYTES = 4
ACTIVATION_BYTES, ACTIVATION_TRIPS, OPTIMIZER_TRIPS = 2, 5, 7
DECODE_MS = 1.171
"""Processor time to decode and resize an image of 360 x 360 (`results/input_pipeline.json`)."""
CASES = [
    cases.Case("unet", 16, 128, 32),
    cases.Case("unet", 32, 128, 32),
    cases.Case("unet", 64, 128, 32),
    cases.Case("segnet", 64, 128, 32),
    cases.Case("encoder_decoder", 0, 128, 32),
    cases.Case("classifier", 16, 180, 32),
]


@dataclasses.dataclass(frozen=True, slots=True)
class Switched:
    """GPUs in nodes: all linked to all within a node, and one network card each between nodes.

    Attributes:
        name: name of the hardware.
        flops: peak of a device, dense bfloat16, 1/s.
        memory: bytes/s of its memory.
        inside, between: bytes/s that a device sends within its node, and to other nodes.
        node: devices in a node.
        inside_latency, between_latency: seconds of an all-reduce of nothing in a node, and of each
            doubling of the nodes, there and back.
    """

    name: str
    flops: float
    memory: float
    inside: float
    between: float
    node: int
    inside_latency: float
    between_latency: float

    def all_reduce(self, size: float, devices: int) -> float:
        """Returns the seconds to sum `size` bytes over `devices`.

        The sum is taken in each node, then between the nodes, and is then distributed in each node.
        """
        local = min(devices, self.node)
        nodes = math.ceil(devices / self.node)
        seconds = 2 * (local - 1) / local * size / self.inside
        seconds += 2 * (nodes - 1) / nodes * (size / local) / self.between
        if local > 1:
            seconds += self.inside_latency
        return seconds + self.between_latency * math.log2(nodes)


@dataclasses.dataclass(frozen=True, slots=True)
class Torus:
    """TPU chips in a torus, each linked to its neighbours.

    Attributes:
        name: name of the hardware.
        flops: peak of a chip, dense bfloat16, 1/s.
        memory: bytes/s of its memory.
        links: bytes/s that a chip sends over all its links.
        wrap: length from which an axis is a ring; a shorter one is a line, of half the bandwidth.
        hop: seconds from one chip to the next.
        shapes: shape of the slice, by number of chips.
    """

    name: str
    flops: float
    memory: float
    links: float
    wrap: int
    hop: float
    shapes: dict[int, tuple[int, ...]]

    def all_reduce(self, size: float, devices: int) -> float:
        """Returns the seconds to sum `size` bytes over `devices`, on all axes at once."""
        shape = self.shapes[devices]
        if math.prod(shape) != devices:
            raise ValueError(f"{self.name}: {shape} are not {devices} chips")
        rings = [side >= self.wrap for side in shape]
        share = sum(1.0 if ring else 0.5 for ring in rings) / len(shape)
        seconds = 2 * (devices - 1) / devices * size / (self.links * share)
        hops = sum(side // 2 if ring else side - 1 for side, ring in zip(shape, rings))
        return seconds + 2 * hops * self.hop


# Latencies are assumptions; the rest is from the makers' data sheets:
# H100 SXM5: 989 TFLOP/s, 3.35 TB/s, NVLink 900 GB/s both ways together. DGX H100: eight GPUs, and
# for each a ConnectX-7 of 400 Gb/s. TPU v5e: 197 TFLOP/s, 819 GB/s, 1600 Gb/s over four links, 2D
# torus up to 16 x 16. TPU v5p: 459 TFLOP/s, 2765 GB/s, 4800 Gb/s over six links, 3D torus, closed
# from 4 x 4 x 4 on.
HARDWARE = (
    Switched("H100 SXM", 989e12, 3.35e12, 450e9, 50e9, 8, 10e-6, 10e-6),
    Torus(
        "TPU v5e", 197e12, 819e9, 200e9, 16, 1e-6,
        {8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)},
    ),
    Torus(
        "TPU v5p", 459e12, 2765e9, 600e9, 4, 1e-6,
        {8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8)},
    ),
)  # fmt: skip
Hardware = Switched | Torus


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """The work of one step of a network on a device.

    Attributes:
        case: network, size and images a device.
        parameters: number of learnt values.
        flops: FLOPs of a step, two a multiply-add.
        activations: number of values that the convolutions of a forward pass write.
        norms: number of batch normalizations.
    """

    case: cases.Case
    parameters: int
    flops: int
    activations: int
    norms: int

    @property
    def gradient_bytes(self) -> int:
        return GRADIENT_BYTES * self.parameters

    @property
    def memory_bytes(self) -> int:
        """The least traffic of a step through the device's memory."""
        moved = ACTIVATION_BYTES * ACTIVATION_TRIPS * self.activations
        return moved + OPTIMIZER_TRIPS * PARAMETER_BYTES * self.parameters

    def seconds(self, hardware: Hardware) -> float:
        """Returns the seconds of a step on one device, without any exchange."""
        return max(
            self.flops / (ATTAINED["flops"] * hardware.flops),
            self.memory_bytes / (ATTAINED["memory"] * hardware.memory),
        )

    def exchange(self, hardware: Hardware, devices: int) -> float:
        """Returns the seconds of a step's all-reduces."""
        statistics = 2 * self.norms * hardware.all_reduce(0, devices)
        return statistics + hardware.all_reduce(self.gradient_bytes, devices)

    def share(self, hardware: Hardware, devices: int) -> float:
        """Returns the share of a step that is exchange."""
        exchange = self.exchange(hardware, devices)
        return exchange / (exchange + self.seconds(hardware))

    def batch_for(self, hardware: Hardware, devices: int, share: float = 0.1) -> int:
        """Returns the least images a device with which the exchange is at most `share` of a step.

        The step is assumed to be proportional to the batch, as all of it but the optimizer is.
        """
        an_image = self.seconds(hardware) / self.case.batch
        return math.ceil(self.exchange(hardware, devices) * (1 - share) / share / an_image)


def work(case: cases.Case) -> Work:
    """Counts the work of a network without computing anything."""
    model = nnx.eval_shape(lambda: subject.build(case, "bfloat16")[1])
    layers = describe.describe(model, (case.batch, case.size, case.size, 3))
    return Work(
        case,
        parameters=sum(layer.parameters for layer in layers),
        flops=3 * sum(layer.flops for layer in layers),
        activations=sum(math.prod(layer.shape) for layer in layers if layer.flops),
        norms=sum("BatchNorm" in layer.kind for layer in layers),
    )


def measure(case: cases.Case, rounds: int = 3) -> tuple[float, float]:
    """Returns the least seconds of a step on this device: by the clock, and of all processors."""
    side = subject.make(case, "train")
    side.run()
    found = []
    for _ in range(rounds):
        clock, processor = time.perf_counter(), time.process_time()
        side.run()
        found.append((time.perf_counter() - clock, time.process_time() - processor))
    return min(x for x, _ in found), min(x for _, x in found)


def network_table(works: Sequence[Work]) -> str:
    """Returns the work of each network as Markdown."""
    rows = [
        "| network, images a device | parameters | gradient, MB | GFLOPs a step | GB moved | "
        "FLOPs a byte moved | FLOPs a byte exchanged |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for w in works:
        rows.append(
            f"| {w.case} | {w.parameters:,} | {w.gradient_bytes / 1e6:.2f} | {w.flops / 1e9:,.0f} "
            f"| {w.memory_bytes / 1e9:.2f} | {w.flops / w.memory_bytes:.0f} "
            f"| {w.flops / w.gradient_bytes:,.0f} |"
        )
    return "\n".join(rows)


def share_table(works: Sequence[Work], hardware: Hardware) -> str:
    """Returns Markdown: a step, the exchange's share of it, and the images the host must supply."""
    counts = " | ".join(map(str, DEVICES))
    rows = [
        f"| {hardware.name} | step, ms | bound by | {counts} | images for ≤ 10 % at {DEVICES[-1]} "
        "| images/s | processors |",
        "|---|--:|---|" + "--:|" * (len(DEVICES) + 3),
    ]
    for w in works:
        seconds = w.seconds(hardware)
        bound = "FLOPs" if seconds == w.flops / (ATTAINED["flops"] * hardware.flops) else "memory"
        shares = " | ".join(f"{100 * w.share(hardware, n):.1f} %" for n in DEVICES)
        rate = w.case.batch / (seconds + w.exchange(hardware, DEVICES[0]))
        rows.append(
            f"| {w.case} | {1e3 * seconds:.2f} | {bound} | {shares} "
            f"| {w.batch_for(hardware, DEVICES[-1])} | {rate:,.0f} | {rate * DECODE_MS / 1e3:.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="images a device")
    parser.add_argument("--measure", action="store_true", help="time a step here, too")
    parser.add_argument("--only", default="", help="networks whose text contains this")
    parser.add_argument("--out", help="write the numbers to this JSON file, too")
    options = parser.parse_args()
    if options.batch < 1:
        parser.error(f"--batch is {options.batch}; it must be at least 1")
    chosen = [dataclasses.replace(c, batch=options.batch) for c in CASES if options.only in str(c)]
    works = [work(case) for case in chosen]
    print(network_table(works))
    for hardware in HARDWARE:
        print(f"\n{share_table(works, hardware)}")
    measured = {}
    if options.measure:
        print(
            "\n| measured here | step, s | GFLOP/s | processor time, s | GFLOPs in a second of it |"
        )
        print("|---|--:|--:|--:|--:|")
        for w in works:
            clock, processor = measure(w.case)
            measured[str(w.case)] = {"seconds": clock, "processor_seconds": processor}
            by_clock, by_processor = w.flops / clock / 1e9, w.flops / processor / 1e9
            print(
                f"| {w.case} | {clock:.3f} | {by_clock:.0f} | {processor:.3f} "
                f"| {by_processor:.0f} |",
                flush=True,
            )
    if options.out:
        atomic.write_json(
            options.out,
            {
                "hardware": cases.hardware() if options.measure else None,
                "measured": measured,
                "networks": [
                    {
                        **dataclasses.asdict(w),
                        "gradient_bytes": w.gradient_bytes,
                        "memory_bytes": w.memory_bytes,
                        "on": {
                            h.name: {
                                "step_seconds": w.seconds(h),
                                "share": {n: w.share(h, n) for n in DEVICES},
                            }
                            for h in HARDWARE
                        },
                    }
                    for w in works
                ],
            },
        )


if __name__ == "__main__":
    main()
