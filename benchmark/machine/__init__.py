"""What the machine is: its processors, memory, disks, GPUs and their limits."""
