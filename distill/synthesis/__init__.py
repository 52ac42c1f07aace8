"""Rendered faces with exact landmarks: training data in any number, without a download.

A picture depends on (seed, index, size, elevation) alone, whatever is rendered beside it or before it and by however
many processes; its labels on their kind too, and they scale with the size.

    job.py            a set on disk: shards, worker processes, labels, manifest
    preview.py        a contact sheet of a set
    renderer.py       one picture
    person.py         identity, expression, pose
    view.py           the head before the camera, the crop, the light
    appearance.py     skin, eyes, make-up, cloth
    hair.py           styles, and strands of scalp, brows and beard
    accessories.py    torso, hats, glasses, earrings, hands and what they hold; of meshes.py, into scene.py
    backgrounds.py    what is behind
    camera.py         flat things before the lens, tone, lens, sensor, JPEG
    facemodel.py      the morphable face of assets/; masks.py its regions
    noise.py          tables of noise
    sampling.py       random streams, weighted choices, colours
    array_columns.py  columns of the arrays that Python and the kernels share
    kernels/          loops compiled by numba
"""

LABELS = ("aflw", "vertices")
ELEVATION = 12.0  # of the camera, degrees: as far as pitch goes for faces that are seen from the front
