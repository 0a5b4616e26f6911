"""Who fires: activation counts measured on data, and dead-neuron rates."""
