"""Where adapters lie: one layout, images on the host, slots on the device."""
