"""The channels of a call's outputs, one function per `layer_rules.ChannelRule`.

Each takes `(layer, call, coupled)`: the layer without a wrapper, its `Call`, and the `CoupledChannels` so
far, to which it adds couplings and pins. It returns one of:

- the `Channels` of all outputs, or a list with those of each;
- None if they are unknown;
- a string: why the channels of the inputs are not removable.

`ChannelMap` chooses the rule of a call.
"""
