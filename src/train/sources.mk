# files of src/train
