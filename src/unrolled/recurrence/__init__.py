"""From a layer's arguments to the kernels: check them once (`arguments`), choose who computes (`plan`), compute (`run`)."""
