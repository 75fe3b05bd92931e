"""Keys of Flower's node configuration: what a device says of itself when it joins."""

NODE_ID = "node-id"
"""The device's enrolment name."""
DATA_SOURCE = "data-source"
"""The device's own labelled data, a path on the device."""
PROFILE = "device-profile"
"""The device's profile, a path on the device."""
