"""Where and how arrays are computed: devices, processes, tiles, compiled loops."""
