"""Activation counts and dead-neuron rates, measured on data."""
