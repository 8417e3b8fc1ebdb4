"""Distillation: what a learned rule computes, fitted by a smaller network or by a formula."""
