"""The edge: HTTP+JSON, WebSocket, one gRPC door and the web page. Holds no state that matters."""
