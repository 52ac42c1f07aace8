"""Landmarks for pictures and video, from an ONNX file with numpy, OpenCV and onnxruntime alone: no torch, no config.

runtime.py    Student: a picture in, points and confidences out; the ONNX network
pictures.py   a path, an array or a PIL image -> RGB pixels
crops.py      face box or whole picture -> the square that a network sees, and the way back
boxes.py      face boxes from JSON or CSV
video.py      frames of a file or camera, and a file to write them to
smoothing.py  the One-Euro filter; jitter and lag
drawing.py    landmarks on frames, two pictures side by side
motion.py     what a face does: turn of the head, eyes, brows, mouth
puppet.py     a drawn face that does the same
writing.py    landmarks as JSON and CSV
"""
