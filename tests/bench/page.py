"""How long the page of a large study takes to make and to open: 100,000 samples of invented answers.

python -m tests.bench.page
"""

import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import yaml

from scripts.questions._table import SCHEMA as QUESTIONS
from scripts.score._table import SCHEMA as SCORES
from scripts.table import SAMPLE_COLUMNS, write_table
from tests.browser import chromium, opened, see_all
from tests.conftest import TINY_STUDY, Copy
