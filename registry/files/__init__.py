"""Files on this machine: durable folders, copies hashed on the way, scratch room, folders read and made."""
