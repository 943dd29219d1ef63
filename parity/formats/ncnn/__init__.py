"""NCNN: made by pnnx, run by ncnn."""
