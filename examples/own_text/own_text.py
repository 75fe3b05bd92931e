"""A transformer that reads raw texts with a tokeniser of its own, and a student of one's own."""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

PUBLIC = Path(__file__).parent / "public" / "public.csv"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]"]
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


class Teacher(nn.Module):
    """A BERT of random weights; a pretrained one comes with `from_pretrained`, as its tokeniser does."""

    def __init__(self, num_classes):
        super().__init__()
        words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        words.train([str(PUBLIC)], trainers.WordPieceTrainer(vocab_size=6000, special_tokens=SPECIAL))
        words.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
        self.encode = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=96)
        config = BertConfig(vocab_size=6000, num_labels=num_classes, **SHAPE)
        self.bert = BertForSequenceClassification(config)

    def forward(self, texts):
        return self.bert(**self.encode(texts, truncation=True, padding=True, return_tensors="pt"))


def teacher(spec, num_classes):
    return Teacher(num_classes)


teacher.takes = "text"


def student(spec, *, num_classes, width):
    words = nn.EmbeddingBag(spec.num_ids, round(32 * width), mode="mean", padding_idx=0)
    return nn.Sequential(words, nn.Linear(round(32 * width), num_classes))
