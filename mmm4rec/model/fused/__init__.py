"""Our own kernels in Triton. They import triton, so import them only where they are used (`mmm4rec.model.kernels`)."""
