"""The OpenAPI document, made from the descriptors, and a page that shows it."""
