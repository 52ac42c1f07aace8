"""Landmarks for pictures and video, from an ONNX file with numpy, OpenCV and onnxruntime alone: no torch, no config.

runtime.py    Student: a picture in, points and confidences out; the ONNX network
pictures.py   a path, an array or a PIL image -> RGB pixels
crops.py      face box or whole picture -> the square that a network sees, and back
boxes.py      face boxes from JSON or CSV
video.py      frames of a file or camera with their times, and a file to write them to
smoothing.py  the One-Euro filter; jitter and lag
output.py     landmarks as JSON and CSV, and drawn
job.py        pictures and folders; video_job.py: a video or camera
"""
