"""What tensors hold, from factors alone: NaN, norms, angles, signs. numpy on first use."""
