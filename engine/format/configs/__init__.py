"""adapter_config.json, typed, and PEFT's matching rules over it."""
