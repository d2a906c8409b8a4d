"""The bodies that sensors, pose estimators and data sets give, each in its owners' order of joints."""

from __future__ import annotations

from mica.skeleton.inference import infer_layout
from mica.skeleton.registry import register

# The order of NTU RGB+D. The bones are ST-GCN's: hand tips hang from the thumbs.
register(
    infer_layout(
        "ntu-25",
        joints=(
            *("spine base", "spine mid", "neck", "head"),
            *("left shoulder", "left elbow", "left wrist", "left hand"),
            *("right shoulder", "right elbow", "right wrist", "right hand"),
            *("left hip", "left knee", "left ankle", "left foot"),
            *("right hip", "right knee", "right ankle", "right foot"),
            *("spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb"),
        ),
        parents=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
        about="Kinect v2, 3-D (NTU RGB+D, PKU-MMD); x to the sensor's left, y up, z away",
    )
)

# The order of the SDK.
register(
    infer_layout(
        "kinect-20",
        joints=(
            *("hip centre", "spine", "shoulder centre", "head"),
            *("left shoulder", "left elbow", "left wrist", "left hand"),
            *("right shoulder", "right elbow", "right wrist", "right hand"),
            *("left hip", "left knee", "left ankle", "left foot"),
            *("right hip", "right knee", "right ankle", "right foot"),
        ),
        parents=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
        about="Kinect v1, 3-D (UTD-MHAD, NW-UCLA)",
    )
)

# The bones are those of pyskl: there is no joint on the trunk, so that shoulders hang from the nose.
register(
    infer_layout(
        "coco-17",
        joints=(
            *("nose", "left eye", "right eye", "left ear", "right ear"),
            *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
            *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
        ),
        parents=(0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
        about="COCO keypoints, 2-D (HRNet, RTMPose, YOLO-Pose; the poses of pyskl)",
    )
)

# The bones are ST-GCN's (Kinetics-Skeleton): hips hang from the shoulders.
register(
    infer_layout(
        "openpose-18",
        joints=(
            *("nose", "neck", "right shoulder", "right elbow", "right wrist"),
            *("left shoulder", "left elbow", "left wrist"),
            *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
            *("right eye", "left eye", "right ear", "left ear"),
        ),
        parents=(1, 1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
        about="OpenPose's COCO model, 2-D (Kinetics-Skeleton)",
    )
)

register(
    infer_layout(
        "openpose-25",
        joints=(
            *("nose", "neck", "right shoulder", "right elbow", "right wrist"),
            *("left shoulder", "left elbow", "left wrist"),
            *("mid hip", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
            *("right eye", "left eye", "right ear", "left ear"),
            *(
                "left big toe",
                "left small toe",
                "left heel",
                "right big toe",
                "right small toe",
                "right heel",
            ),
        ),
        parents=(1, 1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
        about="OpenPose's BODY_25 model, 2-D",
    )
)

# The 17 of the 32 joints that peers keep, the right leg first. What the owners call feet are the ankles; the joint
# between thorax and head they call "neck/nose".
register(
    infer_layout(
        "h36m-17",
        joints=(
            *("pelvis", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
            *("spine", "thorax", "nose", "head"),
            *("left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist"),
        ),
        parents=(0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
        about="Human3.6M, 3-D (what most lifters from 2-D to 3-D return)",
    )
)

# The owners' lines close circles. Those across the trunk are left out, and shoulders hang from the nose as in COCO.
register(
    infer_layout(
        "mediapipe-33",
        joints=(
            *("nose", "left eye inner", "left eye", "left eye outer"),
            *(
                "right eye inner",
                "right eye",
                "right eye outer",
                "left ear",
                "right ear",
                "left mouth",
                "right mouth",
            ),
            *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
            *("left pinky", "right pinky", "left index", "right index", "left thumb", "right thumb"),
            *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
            *("left heel", "right heel", "left foot index", "right foot index"),
        ),
        parents=(
            *(0, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0),
            *(0, 0, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16, 11, 12, 23, 24, 25, 26, 27, 28, 27, 28),
        ),
        about="MediaPipe Pose (BlazePose), 2-D in the image or 3-D in metres about the hips",
    )
)

# The 22 joints of the body, without hands. The owners call the spines spine1, spine2, spine3.
register(
    infer_layout(
        "smpl-22",
        joints=(
            *("pelvis", "left hip", "right hip", "lower spine", "left knee", "right knee", "middle spine"),
            *("left ankle", "right ankle", "upper spine", "left foot", "right foot"),
            *("neck", "left collar", "right collar", "head"),
            *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        ),
        parents=(0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19),
        about="SMPL body model, 3-D (AMASS, HumanML3D)",
    )
)
