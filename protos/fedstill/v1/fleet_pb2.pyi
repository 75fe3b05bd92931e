from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("run_id", "version", "input", "nonce")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    version: str
    input: InputSpec
    nonce: bytes
    def __init__(self, run_id: _Optional[str] = ..., version: _Optional[str] = ..., input: _Optional[_Union[InputSpec, _Mapping]] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("node_id", "version", "num_train_samples", "num_validation_samples", "num_test_samples", "private_digest", "group", "num_partitions", "certificate", "proof", "profile")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_VALIDATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_TEST_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NUM_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    version: str
    num_train_samples: int
    num_validation_samples: int
    num_test_samples: int
    private_digest: str
    group: str
    num_partitions: int
    certificate: bytes
    proof: bytes
    profile: DeviceProfile
    def __init__(self, node_id: _Optional[str] = ..., version: _Optional[str] = ..., num_train_samples: _Optional[int] = ..., num_validation_samples: _Optional[int] = ..., num_test_samples: _Optional[int] = ..., private_digest: _Optional[str] = ..., group: _Optional[str] = ..., num_partitions: _Optional[int] = ..., certificate: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., profile: _Optional[_Union[DeviceProfile, _Mapping]] = ...) -> None: ...

class DeviceProfile(_message.Message):
    __slots__ = ("name", "flash_bytes", "memory_bytes", "latency_budget_seconds", "runtimes", "arithmetic", "fp32_macs_per_second", "int8_macs_per_second", "step_seconds", "speed_source", "down_bytes_per_second", "up_bytes_per_second", "link_latency_seconds", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FLASH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BUDGET_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    FP32_MACS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    INT8_MACS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SPEED_SOURCE_FIELD_NUMBER: _ClassVar[int]
    DOWN_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    UP_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LINK_LATENCY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    flash_bytes: int
    memory_bytes: int
    latency_budget_seconds: float
    runtimes: _containers.RepeatedScalarFieldContainer[str]
    arithmetic: _containers.RepeatedScalarFieldContainer[str]
    fp32_macs_per_second: float
    int8_macs_per_second: float
    step_seconds: float
    speed_source: str
    down_bytes_per_second: float
    up_bytes_per_second: float
    link_latency_seconds: float
    description: str
    def __init__(self, name: _Optional[str] = ..., flash_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., latency_budget_seconds: _Optional[float] = ..., runtimes: _Optional[_Iterable[str]] = ..., arithmetic: _Optional[_Iterable[str]] = ..., fp32_macs_per_second: _Optional[float] = ..., int8_macs_per_second: _Optional[float] = ..., step_seconds: _Optional[float] = ..., speed_source: _Optional[str] = ..., down_bytes_per_second: _Optional[float] = ..., up_bytes_per_second: _Optional[float] = ..., link_latency_seconds: _Optional[float] = ..., description: _Optional[str] = ...) -> None: ...

class StudentPlan(_message.Message):
    __slots__ = ("model", "width", "bits", "num_calibration", "steps", "prune_ratio", "importance", "sparsity", "pattern", "energy", "rank", "group_size", "storage", "runtime", "qat")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    NUM_CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PRUNE_RATIO_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    QAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    width: float
    bits: int
    num_calibration: int
    steps: _containers.RepeatedScalarFieldContainer[str]
    prune_ratio: float
    importance: str
    sparsity: float
    pattern: str
    energy: float
    rank: int
    group_size: int
    storage: str
    runtime: str
    qat: bool
    def __init__(self, model: _Optional[str] = ..., width: _Optional[float] = ..., bits: _Optional[int] = ..., num_calibration: _Optional[int] = ..., steps: _Optional[_Iterable[str]] = ..., prune_ratio: _Optional[float] = ..., importance: _Optional[str] = ..., sparsity: _Optional[float] = ..., pattern: _Optional[str] = ..., energy: _Optional[float] = ..., rank: _Optional[int] = ..., group_size: _Optional[int] = ..., storage: _Optional[str] = ..., runtime: _Optional[str] = ..., qat: _Optional[bool] = ...) -> None: ...

class InputSpec(_message.Message):
    __slots__ = ("task", "sample_shape", "dtype", "layout", "scale", "mean", "std", "class_names", "feature_names", "num_ids")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    NUM_IDS_FIELD_NUMBER: _ClassVar[int]
    task: str
    sample_shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    layout: str
    scale: float
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    class_names: _containers.RepeatedScalarFieldContainer[str]
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    num_ids: int
    def __init__(self, task: _Optional[str] = ..., sample_shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., layout: _Optional[str] = ..., scale: _Optional[float] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., class_names: _Optional[_Iterable[str]] = ..., feature_names: _Optional[_Iterable[str]] = ..., num_ids: _Optional[int] = ...) -> None: ...

class LabelSource(_message.Message):
    __slots__ = ("address", "label_set_id", "codec", "temperature", "labels_digest", "public_digest", "evaluation_digest", "validation_digest", "encoder_digest", "knowledge_digest", "knowledge_counts", "views", "features_digest")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LABEL_SET_ID_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    LABELS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    address: str
    label_set_id: str
    codec: str
    temperature: float
    labels_digest: bytes
    public_digest: bytes
    evaluation_digest: bytes
    validation_digest: bytes
    encoder_digest: bytes
    knowledge_digest: bytes
    knowledge_counts: _containers.RepeatedScalarFieldContainer[float]
    views: ViewPlan
    features_digest: bytes
    def __init__(self, address: _Optional[str] = ..., label_set_id: _Optional[str] = ..., codec: _Optional[str] = ..., temperature: _Optional[float] = ..., labels_digest: _Optional[bytes] = ..., public_digest: _Optional[bytes] = ..., evaluation_digest: _Optional[bytes] = ..., validation_digest: _Optional[bytes] = ..., encoder_digest: _Optional[bytes] = ..., knowledge_digest: _Optional[bytes] = ..., knowledge_counts: _Optional[_Iterable[float]] = ..., views: _Optional[_Union[ViewPlan, _Mapping]] = ..., features_digest: _Optional[bytes] = ...) -> None: ...

class ViewPlan(_message.Message):
    __slots__ = ("seed", "num_views", "mixup_ratio", "flips", "recipe")
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_VIEWS_FIELD_NUMBER: _ClassVar[int]
    MIXUP_RATIO_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    seed: int
    num_views: int
    mixup_ratio: float
    flips: bool
    recipe: int
    def __init__(self, seed: _Optional[int] = ..., num_views: _Optional[int] = ..., mixup_ratio: _Optional[float] = ..., flips: _Optional[bool] = ..., recipe: _Optional[int] = ...) -> None: ...

class Hyperparameters(_message.Message):
    __slots__ = ("scheme", "loss", "temperature", "distill_lambda", "num_steps", "batch_size", "learning_rate", "weight_decay", "proximal_mu", "feature_weight", "mode", "more", "begins_together", "wants_class_counts", "selective_quantile", "revisit_ratio")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    DISTILL_LAMBDA_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_MU_FIELD_NUMBER: _ClassVar[int]
    FEATURE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    BEGINS_TOGETHER_FIELD_NUMBER: _ClassVar[int]
    WANTS_CLASS_COUNTS_FIELD_NUMBER: _ClassVar[int]
    SELECTIVE_QUANTILE_FIELD_NUMBER: _ClassVar[int]
    REVISIT_RATIO_FIELD_NUMBER: _ClassVar[int]
    scheme: str
    loss: str
    temperature: float
    distill_lambda: float
    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    proximal_mu: float
    feature_weight: float
    mode: str
    more: str
    begins_together: bool
    wants_class_counts: bool
    selective_quantile: float
    revisit_ratio: float
    def __init__(self, scheme: _Optional[str] = ..., loss: _Optional[str] = ..., temperature: _Optional[float] = ..., distill_lambda: _Optional[float] = ..., num_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., proximal_mu: _Optional[float] = ..., feature_weight: _Optional[float] = ..., mode: _Optional[str] = ..., more: _Optional[str] = ..., begins_together: _Optional[bool] = ..., wants_class_counts: _Optional[bool] = ..., selective_quantile: _Optional[float] = ..., revisit_ratio: _Optional[float] = ...) -> None: ...

class TaskRequest(_message.Message):
    __slots__ = ("run_id", "round", "base_round", "labels", "plan", "hyperparameters", "deadline_seconds", "seed", "input", "wants_upload", "shared_round", "shared_weight", "upload_codec", "starts_anew", "wants_latency", "upload_nonce", "skips_evaluation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_ROUND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    WANTS_UPLOAD_FIELD_NUMBER: _ClassVar[int]
    SHARED_ROUND_FIELD_NUMBER: _ClassVar[int]
    SHARED_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_CODEC_FIELD_NUMBER: _ClassVar[int]
    STARTS_ANEW_FIELD_NUMBER: _ClassVar[int]
    WANTS_LATENCY_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_NONCE_FIELD_NUMBER: _ClassVar[int]
    SKIPS_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    base_round: int
    labels: LabelSource
    plan: StudentPlan
    hyperparameters: Hyperparameters
    deadline_seconds: float
    seed: int
    input: InputSpec
    wants_upload: bool
    shared_round: int
    shared_weight: float
    upload_codec: str
    starts_anew: bool
    wants_latency: bool
    upload_nonce: bytes
    skips_evaluation: bool
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., base_round: _Optional[int] = ..., labels: _Optional[_Union[LabelSource, _Mapping]] = ..., plan: _Optional[_Union[StudentPlan, _Mapping]] = ..., hyperparameters: _Optional[_Union[Hyperparameters, _Mapping]] = ..., deadline_seconds: _Optional[float] = ..., seed: _Optional[int] = ..., input: _Optional[_Union[InputSpec, _Mapping]] = ..., wants_upload: _Optional[bool] = ..., shared_round: _Optional[int] = ..., shared_weight: _Optional[float] = ..., upload_codec: _Optional[str] = ..., starts_anew: _Optional[bool] = ..., wants_latency: _Optional[bool] = ..., upload_nonce: _Optional[bytes] = ..., skips_evaluation: _Optional[bool] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("classes", "confidences")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    classes: bytes
    confidences: bytes
    def __init__(self, classes: _Optional[bytes] = ..., confidences: _Optional[bytes] = ...) -> None: ...

class TaskResponse(_message.Message):
    __slots__ = ("run_id", "round", "node_id", "state_reset", "distillation_loss", "private_loss", "private_validation_accuracy", "private_test_accuracy", "evaluation", "evaluation_fp32", "validation", "model", "wire_bytes_down", "seconds", "student_digest", "artefact_digest", "num_steps", "host", "upload_digest", "upload_bytes", "upload_counts", "learned_together", "latency_seconds_batch1", "fp32_latency_seconds_batch1", "choice")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_RESET_FIELD_NUMBER: _ClassVar[int]
    DISTILLATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_LOSS_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_VALIDATION_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_TEST_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FP32_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WIRE_BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    STUDENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_COUNTS_FIELD_NUMBER: _ClassVar[int]
    LEARNED_TOGETHER_FIELD_NUMBER: _ClassVar[int]
    LATENCY_SECONDS_BATCH1_FIELD_NUMBER: _ClassVar[int]
    FP32_LATENCY_SECONDS_BATCH1_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    node_id: str
    state_reset: bool
    distillation_loss: float
    private_loss: float
    private_validation_accuracy: float
    private_test_accuracy: float
    evaluation: Predictions
    evaluation_fp32: Predictions
    validation: Predictions
    model: ModelFacts
    wire_bytes_down: int
    seconds: PhaseSeconds
    student_digest: str
    artefact_digest: str
    num_steps: int
    host: str
    upload_digest: bytes
    upload_bytes: int
    upload_counts: _containers.RepeatedScalarFieldContainer[int]
    learned_together: bool
    latency_seconds_batch1: float
    fp32_latency_seconds_batch1: float
    choice: Choice
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., node_id: _Optional[str] = ..., state_reset: _Optional[bool] = ..., distillation_loss: _Optional[float] = ..., private_loss: _Optional[float] = ..., private_validation_accuracy: _Optional[float] = ..., private_test_accuracy: _Optional[float] = ..., evaluation: _Optional[_Union[Predictions, _Mapping]] = ..., evaluation_fp32: _Optional[_Union[Predictions, _Mapping]] = ..., validation: _Optional[_Union[Predictions, _Mapping]] = ..., model: _Optional[_Union[ModelFacts, _Mapping]] = ..., wire_bytes_down: _Optional[int] = ..., seconds: _Optional[_Union[PhaseSeconds, _Mapping]] = ..., student_digest: _Optional[str] = ..., artefact_digest: _Optional[str] = ..., num_steps: _Optional[int] = ..., host: _Optional[str] = ..., upload_digest: _Optional[bytes] = ..., upload_bytes: _Optional[int] = ..., upload_counts: _Optional[_Iterable[int]] = ..., learned_together: _Optional[bool] = ..., latency_seconds_batch1: _Optional[float] = ..., fp32_latency_seconds_batch1: _Optional[float] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("temperature", "distill_lambda", "num_steps", "public_share", "own_accuracy", "alone_accuracy", "num_validation", "num_trial_steps", "why")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    DISTILL_LAMBDA_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SHARE_FIELD_NUMBER: _ClassVar[int]
    OWN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ALONE_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    NUM_VALIDATION_FIELD_NUMBER: _ClassVar[int]
    NUM_TRIAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    distill_lambda: float
    num_steps: int
    public_share: float
    own_accuracy: float
    alone_accuracy: float
    num_validation: int
    num_trial_steps: int
    why: str
    def __init__(self, temperature: _Optional[float] = ..., distill_lambda: _Optional[float] = ..., num_steps: _Optional[int] = ..., public_share: _Optional[float] = ..., own_accuracy: _Optional[float] = ..., alone_accuracy: _Optional[float] = ..., num_validation: _Optional[int] = ..., num_trial_steps: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class ModelFacts(_message.Message):
    __slots__ = ("num_parameters", "fp32_bytes", "artefact_bytes")
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FP32_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    num_parameters: int
    fp32_bytes: int
    artefact_bytes: int
    def __init__(self, num_parameters: _Optional[int] = ..., fp32_bytes: _Optional[int] = ..., artefact_bytes: _Optional[int] = ...) -> None: ...

class PhaseSeconds(_message.Message):
    __slots__ = ("fetch", "train", "export", "evaluate")
    FETCH_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    fetch: float
    train: float
    export: float
    evaluate: float
    def __init__(self, fetch: _Optional[float] = ..., train: _Optional[float] = ..., export: _Optional[float] = ..., evaluate: _Optional[float] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("run_id", "labels", "plan", "hyperparameters", "input", "seed", "num_uncompressed_rounds", "skips_local")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_UNCOMPRESSED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SKIPS_LOCAL_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    labels: LabelSource
    plan: StudentPlan
    hyperparameters: Hyperparameters
    input: InputSpec
    seed: int
    num_uncompressed_rounds: int
    skips_local: bool
    def __init__(self, run_id: _Optional[str] = ..., labels: _Optional[_Union[LabelSource, _Mapping]] = ..., plan: _Optional[_Union[StudentPlan, _Mapping]] = ..., hyperparameters: _Optional[_Union[Hyperparameters, _Mapping]] = ..., input: _Optional[_Union[InputSpec, _Mapping]] = ..., seed: _Optional[int] = ..., num_uncompressed_rounds: _Optional[int] = ..., skips_local: _Optional[bool] = ...) -> None: ...

class ControlResponse(_message.Message):
    __slots__ = ("run_id", "node_id", "evaluation", "private_test_accuracy", "uncompressed_evaluation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_TEST_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    UNCOMPRESSED_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node_id: str
    evaluation: Predictions
    private_test_accuracy: float
    uncompressed_evaluation: Predictions
    def __init__(self, run_id: _Optional[str] = ..., node_id: _Optional[str] = ..., evaluation: _Optional[_Union[Predictions, _Mapping]] = ..., private_test_accuracy: _Optional[float] = ..., uncompressed_evaluation: _Optional[_Union[Predictions, _Mapping]] = ...) -> None: ...

class ClosingRequest(_message.Message):
    __slots__ = ("run_id", "base_round", "labels", "collect_artefact", "accuracy", "num_evaluation_samples", "uncompressed_accuracy", "upload_nonce")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_ROUND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COLLECT_ARTEFACT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    NUM_EVALUATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    UNCOMPRESSED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_NONCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    base_round: int
    labels: LabelSource
    collect_artefact: bool
    accuracy: float
    num_evaluation_samples: int
    uncompressed_accuracy: float
    upload_nonce: bytes
    def __init__(self, run_id: _Optional[str] = ..., base_round: _Optional[int] = ..., labels: _Optional[_Union[LabelSource, _Mapping]] = ..., collect_artefact: _Optional[bool] = ..., accuracy: _Optional[float] = ..., num_evaluation_samples: _Optional[int] = ..., uncompressed_accuracy: _Optional[float] = ..., upload_nonce: _Optional[bytes] = ...) -> None: ...

class ClosingResponse(_message.Message):
    __slots__ = ("run_id", "node_id", "latency_seconds_batch1", "artefact_bytes", "upload_bytes", "host")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LATENCY_SECONDS_BATCH1_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node_id: str
    latency_seconds_batch1: float
    artefact_bytes: int
    upload_bytes: int
    host: str
    def __init__(self, run_id: _Optional[str] = ..., node_id: _Optional[str] = ..., latency_seconds_batch1: _Optional[float] = ..., artefact_bytes: _Optional[int] = ..., upload_bytes: _Optional[int] = ..., host: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...
