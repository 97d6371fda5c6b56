"""LISC: frames of blood smears with cells drawn by an expert."""
