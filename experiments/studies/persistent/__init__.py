"""A layer's whole sequence in one kernel for CUDA: a try, which has never run on a device.

`rows` runs a step of time as several kernels, which costs 9 to 12 µs on an H100. Here one kernel
runs all steps forward, and one backward. U stays in the registers of the whole GPU, divided by
units among the blocks, and the blocks exchange h (or shares of dh) through L2. They need no barrier
of the grid: the lowest bit of every word says whether it is this step's. That costs the last of
its 24 bits of precision.

    python -m experiments.studies.persistent    all checks and times, on an H100, in 4 minutes

    forward.cu, backward.cu   the kernels; common.cuh: what they share
    kernels.py                which shapes, compiled by NVRTC, called from JAX
    layer.py                  the kernels as a layer's passes, with the signatures of `rows`
    __main__.py               the check and the times on a device
    emulator.h, emulator.cpp  the kernels on a CPU, a fiber for each thread, for the tests
    pallas.py                 the forward kernel in another way, by Pallas

What is known without a device. The emulator's numbers agree with a loop in NumPy. The kernels
compile for Hopper, and so do programs of JAX that call them. What is not known: whether they run
on a GPU at all, whether its memory keeps the order that the exchange relies on, and how fast they
are. The blocks of a kernel must all run at once, and nothing enforces that: there are never more
of them than an H100 has multiprocessors (132), and two such kernels must not run side by side. A
block that waits in vain gives up after about a second, and the results are NaN.

It suits float32, the shapes in `kernels.TILES`, and neither lengths nor zoneout; `layer` leaves
everything else to rows. Products have the bits of TF32, as those of rows on CUDA, or those of
float32 where `jax.default_matmul_precision` asks for them.
"""
