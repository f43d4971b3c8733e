"""Sensitivity analysis and automatic mixed precision."""
