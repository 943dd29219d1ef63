"""What runs files beside the host: `arm64` is the kernels of 64-bit Arm, `gpu` those of a GPU.

Each file here says whether its executor is on this machine, how it is added, and how a child process of it is started.
"""
