# files of src/job
