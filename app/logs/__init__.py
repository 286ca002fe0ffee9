"""What jobs print: kept byte for byte, read by cursor, made safe and readable only when it is shown."""
