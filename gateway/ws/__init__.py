"""WebSocket `/ws`: JSON frames typed by `gateway.v1` messages, fanned out from shared streams."""
