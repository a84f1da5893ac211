"""Tests of the engine service: real gRPC, real Valkey."""
