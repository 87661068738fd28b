"""Promises of deepgsr_cli.formats.dicom."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

from deepgsr_cli.errors import InputError, OutputError, ShapeError
from deepgsr_cli.formats.dicom import slices
from deepgsr_cli.formats.dicom.derived import DerivedSeries, write_new
from deepgsr_cli.formats.dicom.header import NotCTError
from deepgsr_cli.formats.dicom.series import find_series
from deepgsr_cli.formats.dicom.slices import AIR_HU, Slice, read_slice
from tests.samples import ENCODERS, NATIVE, SYNTAXES, ct, saved

H, W = 37, 53
OF_FRAMES = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
OF_FRAMES += ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")


def samples(seed: int = 0, low: int = 0, high: int = 4095, shape: tuple[int, ...] = (H, W)) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True)


def saved_series(folder: Path, positions: list[str], **elements: object) -> list[Path]:
    """Slices at these z; file names and instance numbers run against them."""
    folder.mkdir(exist_ok=True)
    return [
        saved(
            ct(
                samples(j),
                **{"ImagePositionPatient": ["-20", "-15", z], "InstanceNumber": len(positions) - j}
                | elements,
            ),
            folder / f"{len(positions) - j:03}",
        )
        for j, z in enumerate(positions)
    ]


def read(path: Path, i: int = 0) -> Slice:
    (series,) = find_series(path).series
    return read_slice(series, i)


def saved_frame(path: Path, slice: Dataset, codestream: bytes, syntax: UID) -> Path:
    slice.PixelData = encapsulate([codestream])
    slice["PixelData"].is_undefined_length = True
    slice.file_meta = FileMetaDataset()
    slice.file_meta.TransferSyntaxUID = syntax
    slice.save_as(path, enforce_file_format=True)
    return path


def derived(path: Path, target: Path, hu: np.ndarray | None = None, derivation: str = "test") -> Dataset:
    """The derived object of a file, read by pydicom."""
    (series,) = find_series(path).series
    slice = read_slice(series, 0)
    DerivedSeries(series, "deepgsr test", derivation).write(slice, slice.hu if hu is None else hu, target)
    return pydicom.dcmread(target)


def enhanced(frames: np.ndarray, positions: list[float], slopes: list[str]) -> Dataset:
    """Enhanced CT: what is common in the shared functional groups, position and rescaling in each frame's."""

    def item(**elements: object) -> list[Dataset]:
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return [dataset]

    image = ct(
        frames,
        SOPClassUID=uids.EnhancedCTImageStorage,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        NumberOfFrames=len(frames),
        VolumetricProperties="VOLUME",
        **dict.fromkeys(OF_FRAMES),
    )
    image.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=["0.5", "0.7"], SliceThickness="3"),
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        FrameVOILUTSequence=item(WindowCenter="50", WindowWidth="350"),
        CTGeometrySequence=item(DistanceSourceToDetector=1040.0, DistanceSourceToDataCollectionCenter=570.0),
    )
    image.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=[-20, -15, z]),
            PixelValueTransformationSequence=item(
                RescaleSlope=slope, RescaleIntercept="-1000", RescaleType="HU"
            ),
        )[0]
        for z, slope in zip(positions, slopes)
    ]
    return image


# Values


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(
    ("bits", "signed", "slope"), [(16, True, "1"), (12, False, "1.000244"), (13, True, "0.5")]
)
def test_unchanged_hu_are_written_as_the_stored_values_of_the_source(tmp_path, syntax, bits, signed, slope):
    stored = samples(low=-(2 ** (bits - 1)) * signed, high=2 ** (bits - signed) - 1)
    source = saved(
        ct(stored & (2**bits - 1), bits=bits, signed=signed, RescaleSlope=slope), tmp_path / "in.dcm", syntax
    )
    hu = stored * float(slope) - 1024
    slice = read(source)
    assert not slice.padding.any()
    np.testing.assert_array_equal(slice.hu, hu.astype(np.float32))

    result = derived(source, tmp_path / "out.dcm")
    assert result.file_meta.TransferSyntaxUID == uids.ExplicitVRLittleEndian
    assert (result.BitsStored, result.PixelRepresentation) == (bits, signed)
    np.testing.assert_array_equal(result.pixel_array, stored)
    image = SimpleITK.ReadImage(str(tmp_path / "out.dcm"))
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(image)[0], hu, atol=1e-9)


def test_bits_above_those_stored_do_not_count(tmp_path):
    stored = samples(high=4095)
    source = saved(ct(stored | 0xA000, bits=12, signed=False), tmp_path / "in.dcm")
    np.testing.assert_array_equal(read(source).hu, stored - 1024)
    np.testing.assert_array_equal(derived(source, tmp_path / "out.dcm").pixel_array, stored)


def test_sign_of_the_header_holds_where_the_jpeg2000_stream_contradicts_it(tmp_path):
    stored = samples(low=-2000, high=2000)
    unsigned = ct(stored & 0x1FFF, bits=13, signed=False)
    saved(unsigned, tmp_path / "in.dcm", uids.JPEG2000Lossless)
    unsigned.PixelRepresentation = 1
    unsigned.save_as(tmp_path / "in.dcm")
    np.testing.assert_array_equal(read(tmp_path / "in.dcm").hu, stored - 1024)


def test_eight_bits_become_the_sixteen_of_a_ct_image(tmp_path):
    stored = samples(high=255, shape=(H, W + 1))
    slice = ct(stored, bits=8, signed=False, BitsAllocated=8)
    slice.PixelData = stored.astype("u1").tobytes()
    result = derived(saved(slice, tmp_path / "in.dcm"), tmp_path / "out.dcm")
    assert (result.BitsAllocated, result.BitsStored, result.HighBit) == (16, 12, 11)
    np.testing.assert_array_equal(result.pixel_array, stored)


def test_lossy_compression_is_declared_even_where_the_source_forgot(tmp_path):
    slice = ct(samples(high=255), bits=8, signed=False, BitsAllocated=8)
    codestream = imagecodecs.jpeg8_encode(samples(high=255).astype("u1"))
    saved_frame(tmp_path / "in.dcm", slice, codestream, uids.JPEGBaseline8Bit)
    assert derived(tmp_path / "in.dcm", tmp_path / "out.dcm").LossyImageCompression == "01"


def test_inverted_display_does_not_invert_hu(tmp_path):
    stored = samples()
    source = saved(ct(stored, PhotometricInterpretation="MONOCHROME1"), tmp_path / "in.dcm")
    np.testing.assert_array_equal(read(source).hu, stored - 1024)
    assert derived(source, tmp_path / "out.dcm").PhotometricInterpretation == "MONOCHROME1"


def test_results_are_rounded_and_clipped_to_the_stored_range(tmp_path):
    source = saved(ct(samples(), bits=12, signed=False), tmp_path / "in.dcm")
    hu = np.full((H, W), 12.4)
    hu[0, :3] = [-5000, 5000, 12.6]
    stored = derived(source, tmp_path / "out.dcm", hu).pixel_array
    assert stored[0, :4].tolist() == [0, 4095, 1037, 1036]


def test_slope_and_intercept_that_are_missing_are_one_and_zero_and_noted(tmp_path):
    stored = samples()
    source = saved(ct(stored, RescaleSlope=None, RescaleIntercept=None), tmp_path / "in.dcm")
    (series,) = find_series(source).series
    assert "RescaleSlope" in series.notes[0]
    np.testing.assert_array_equal(read_slice(series, 0).hu, stored)
    result = derived(source, tmp_path / "out.dcm")
    assert (result.RescaleSlope, result.RescaleIntercept) == (1, 0)


# Padding


def corners(value: int, inside: np.ndarray) -> np.ndarray:
    """`inside` within the largest circle, `value` outside."""
    y, x = (np.arange(size) - (size - 1) / 2 for size in inside.shape)
    return np.where(np.hypot(y[:, None], x) > min(inside.shape) / 2, value, inside)


@pytest.mark.parametrize(
    ("value", "element"),
    [
        (-2000, {"PixelPaddingValue": -2000}),
        (-2000, {"PixelPaddingValue": 63536}),  # the same 16 bits without the sign
        (-1024, {"PixelPaddingValue": -2000}),  # -2048 HU, and not the value that is stated
        (-3024, {}),
    ],
)
def test_padding_reads_as_air_and_is_written_back_as_it_was(tmp_path, value, element):
    stored = corners(value, samples(low=0, high=2000))
    stored[18, 26] = value  # off-centre reconstructions are padded inside the circle too
    slice = ct(stored)
    for keyword, number in element.items():
        slice.add_new(keyword, "US" if number > 0 else "SS", number)
    source = saved(slice, tmp_path / "in.dcm")
    found = read(source)
    np.testing.assert_array_equal(found.padding, stored == value)
    assert (found.hu[found.padding] == AIR_HU).all()

    result = derived(source, tmp_path / "out.dcm", found.hu + 7)
    np.testing.assert_array_equal(result.pixel_array, np.where(found.padding, stored, stored + 7))
    if element:
        assert (result["PixelPaddingValue"].VR, result.PixelPaddingValue) == ("SS", -2000)


def test_tissue_of_the_padding_value_is_no_padding(tmp_path):
    stored = corners(1024, samples(low=1025, high=1100))
    stored[18:20, 26] = 1024  # 0 HU, as water
    slice = ct(stored)
    slice.add_new("PixelPaddingValue", "SS", 1024)
    found = read(saved(slice, tmp_path / "in.dcm"))
    inside = corners(0, np.ones_like(stored)) > 0
    np.testing.assert_array_equal(found.padding, ~inside)
    np.testing.assert_array_equal(found.hu[inside], stored[inside] - 1024)


def test_padding_range_includes_both_ends(tmp_path):
    stored = samples(high=2000)
    stored[0, :4] = [-2001, -2000, -1900, -1899]
    slice = ct(stored)
    slice.add_new("PixelPaddingValue", "SS", -2000)
    slice.add_new("PixelPaddingRangeLimit", "SS", -1900)
    padding = read(saved(slice, tmp_path / "in.dcm")).padding
    assert padding[0, :4].tolist() == [False, True, True, False]
    assert padding.sum() == 2


def test_measured_values_below_the_scale_are_not_padding(tmp_path):
    stored = samples(low=-60, high=100)  # air and its noise, out to the corners
    stored[18, 26] = -900
    slice = read(saved(ct(stored), tmp_path / "in.dcm"))
    assert not slice.padding.any()
    np.testing.assert_array_equal(slice.hu, stored - 1024)


# Series


def test_slices_are_in_the_order_of_their_positions_whatever_their_names(tmp_path):
    paths = saved_series(tmp_path / "in", ["-10", "-5", "0", "5", "10.00", "15"])
    (series,) = find_series(tmp_path / "in").series
    assert [slice.path for slice in series.slices] == paths
    assert [read_slice(series, i).position_mm for i in (0, 5)] == [(-20, -15, -10), (-20, -15, 15)]


def test_oblique_slices_are_ordered_along_their_normal(tmp_path):
    normal = np.cross([0.8, 0, 0.6], [0, 1, 0])
    for j in range(4):
        position = [f"{x:.6f}" for x in np.array([5, 6, 7]) + 2.5 * j * normal]
        slice = ct(samples(j), ImagePositionPatient=position, ImageOrientationPatient=[0.8, 0, 0.6, 0, 1, 0])
        saved(slice, tmp_path / f"{9 - j}")
    (series,) = find_series(tmp_path).series
    assert [slice.path.name for slice in series.slices] == ["9", "8", "7", "6"]


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        (["0", "5", "15", "20"], "lacks 1 slice: 003 and 002 are 10 mm apart, others 5;"),
        (["0", "5", "10", "25"], "lacks 2 slices"),
        (["0", "1", "3"], "lacks 1 slice"),
        (["0", "5", "10", "12.5", "15"], "lacks 1 slice"),
        (["0", "5", "10", "17"], "mixed spacing"),
        (["0.00", "5.00", "10.02"], "mixed spacing"),
    ],
)
def test_slices_with_gaps_are_used_one_by_one_and_noted(tmp_path, positions, words):
    paths = saved_series(tmp_path / "in", positions)
    found = find_series(tmp_path / "in")
    assert not found.failures
    (series,) = found.series
    assert [slice.path for slice in series.slices] == sorted(
        paths, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2])
    )
    (note,) = series.notes
    assert words in note
    assert "each slice is done for itself" in note


def test_slices_at_one_place_are_refused_by_name(tmp_path):
    paths = saved_series(tmp_path / "in", ["0", "5", "5", "10"])
    found = find_series(tmp_path / "in")
    assert not found.series
    assert "'Thorax' has two slices at 5 mm, 002 and 003; take one away" in str(found.failures[0])
    assert "one by one" in str(found.failures[0])
    assert all(find_series(path).series for path in paths)  # the way out


@pytest.mark.parametrize(
    "positions",
    [["0.00", "5.00", "10.01"], ["0", "1.2", "2.5", "3.8", "5"], ["-1.3", "-0.7", "-0.1", "0.6"]],
)
def test_positions_may_be_rounded_to_the_decimals_they_have(tmp_path, positions):
    saved_series(tmp_path / "in", positions)
    assert find_series(tmp_path / "in").series


@pytest.mark.parametrize(
    ("element", "keyword"), [({}, "InstanceNumber"), ({"SliceLocation": "{}"}, "SliceLocation")]
)
def test_slices_without_position_are_ordered_by_location_or_number(tmp_path, element, keyword):
    for j in (2, 0, 1):
        numbers = {name: value.format(j * 2.5) for name, value in element.items()}
        number = 9 - j if element else j
        saved(
            ct(samples(j), ImagePositionPatient=None, InstanceNumber=number, **numbers), tmp_path / f"{5 - j}"
        )
    (series,) = find_series(tmp_path).series
    assert [slice.path.name for slice in series.slices] == ["5", "4", "3"]
    assert keyword in series.notes[0]
    assert read_slice(series, 0).position_mm is None


def test_slices_of_unknown_order_are_refused(tmp_path):
    for j in range(2):
        saved(ct(samples(j), ImagePositionPatient=None, InstanceNumber=None), tmp_path / f"{j}")
    assert "how its slices are ordered" in str(find_series(tmp_path).failures[0])
    assert find_series(tmp_path / "0").series


def test_series_of_one_folder_are_told_apart(tmp_path):
    differences = {
        "a": {},
        "b": {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "Bone"},
        "c": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        "d": {"PixelSpacing": ["0.8", "0.9"]},
    }
    for name, elements in differences.items():
        saved(ct(samples(), **elements), tmp_path / f"{name}1")
        nearly = {"ImageOrientationPatient": [1, 0, 1e-5, -1e-7, 1, 0]} if name in "abd" else {}
        position = ["-20", "-15", "3"] if name != "c" else ["-17", "-15", "0"]
        saved(ct(samples(), ImagePositionPatient=position, **elements | nearly), tmp_path / f"{name}2")
    saved(ct(samples(shape=(W, H))), tmp_path / "e1")
    series = find_series(tmp_path).series
    assert [[slice.path.name for slice in one.slices] for one in series] == [
        ["a1", "a2"],
        ["b1", "b2"],
        ["c2", "c1"],  # its normal points to smaller x
        ["d1", "d2"],
        ["e1"],
    ]
    assert [one.description for one in series] == ["Thorax", "Bone", "Thorax", "Thorax", "Thorax"]
    assert [one.pixel_mm for one in series[-2:]] == [(0.8, 0.9), (0.8, 0.8)]
    assert series[-1].shape == (W, H)


def test_a_folder_is_searched_past_what_is_not_a_slice(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    good = saved(ct(samples()), tmp_path / "deep" / "er" / "IM0001")
    (tmp_path / "notes.txt").write_text("nothing here")
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\x08\0" + bytes(range(256)))
    (tmp_path / ".hidden").write_bytes(good.read_bytes())
    saved(ct(samples(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "scout.dcm")
    saved(ct(samples(), SOPClassUID=uids.MRImageStorage, Modality="MR"), tmp_path / "mr.dcm")
    (tmp_path / "broken.dcm").write_bytes(good.read_bytes()[:300])
    (tmp_path / "nothing.dcm").touch()
    found = find_series(tmp_path)
    assert [[slice.path for slice in series.slices] for series in found.series] == [[good]]
    assert len(found.passed_over) - len(found.skipped) == 3
    names = ("broken.dcm", "nothing.dcm")
    assert [str(error).split(": ")[0] for error in found.failures] == [str(tmp_path / name) for name in names]
    assert "nothing.dcm: is not a DICOM file, whose suffix it has; copy it again" in str(found.failures[1])
    assert ["MR Image Storage" in str(error) for error in found.skipped] == [True, False]
    assert "localizer" in str(found.skipped[1])


def test_a_folder_without_slices_says_what_it_has(tmp_path):
    with pytest.raises(InputError, match="has no files; give a folder with DICOM files"):
        find_series(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(
        InputError, match=r"none of its files is a CT slice \(1 file\); give a folder with DICOM"
    ):
        find_series(tmp_path)
    saved(ct(samples(), SOPClassUID=uids.RTDoseStorage, Modality="RTDOSE"), tmp_path / "dose.dcm")
    with pytest.raises(InputError, match=r"none of its files .*2 files.* RT Dose Storage, not a CT"):
        find_series(tmp_path)


def test_memory_does_not_grow_with_the_pixels_of_a_series(tmp_path):
    stored = samples(shape=(256, 256))
    for j in range(10):
        saved(ct(stored, ImagePositionPatient=["0", "0", f"{j}"]), tmp_path / f"{j}")
    tracemalloc.start()
    try:
        (series,) = find_series(tmp_path).series
        for i in range(10):
            read_slice(series, i)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < stored.size * 2
    assert peak < stored.size * 40  # of one slice: float64 HU, distances from the centre, masks


# Bad and odd files


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"SOPClassUID": uids.MRImageStorage}, "is MR Image Storage, not a CT image; give CT slices"),
        ({"SOPClassUID": None, "Modality": "OT"}, "is of modality OT, not a CT image"),
        (
            {"SOPClassUID": uids.RTStructureSetStorage, "PixelData": None},
            "RT Structure Set Storage, not a CT",
        ),
        ({"SOPClassUID": uids.SecondaryCaptureImageStorage}, "Secondary Capture Image Storage, not a CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localizer"),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]},
            "is a page of a screen or of text",
        ),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "text (SCREEN SAVE) and no slice; leave it"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "values of type EFF_ATOMIC_NUM"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "is in colour (RGB)"),
        ({"PixelData": None}, "has no pixel data"),
        ({"NumberOfFrames": 999999999}, "NumberOfFrames is 999999999, and the file has"),
        ({"NumberOfFrames": -1}, "NumberOfFrames is -1, and the file has"),
        ({"BitsStored": None}, "lacks BitsStored"),
        ({"HighBit": 14}, "HighBit is 14, for 16 bits it must be 15"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "has 32 of 32 bits a pixel"),
        ({"RescaleType": "Z_EFF"}, "holds values of type Z_EFF, not HU"),
        ({"RescaleSlope": "0"}, "RescaleSlope is 0"),
        ({"ModalityLUTSequence": [Dataset()]}, "by a table"),
        ({"PixelSpacing": None}, "pixel_mm"),
        ({"PixelSpacing": ["0.8", "0"]}, "PixelSpacing is 0.8 x 0.0 mm"),
        ({"ImagePositionPatient": ["1", "2"]}, "header is damaged (ImagePositionPatient is"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path, elements, words):
    path = tmp_path / "in.dcm"
    slice = ct(samples(), **elements)
    slice.file_meta = FileMetaDataset()
    slice.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    slice.save_as(path, enforce_file_format="SOPClassUID" in slice)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        find_series(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ";" in str(caught.value)


def test_a_missing_file_and_one_that_is_not_dicom_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        find_series(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match="is not a DICOM file"):
        find_series(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ct.zip", "is an archive; unpack it"),
        ("a.dcm.gz", "is an archive; unpack it"),
        ("volume.nii.gz", "is not a DICOM file; .*NIfTI and NRRD are not read"),
    ],
)
def test_an_archive_is_named_as_one(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match=words):
        find_series(tmp_path / name)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_pixel_data_of_more_slices_or_bits_than_the_header_says_are_refused(tmp_path, syntax):
    slice = ct(samples())
    pixels = slice.PixelData
    slice.PixelData = pixels + b"\0\0" * 40  # as some writers fill blocks up
    np.testing.assert_array_equal(read(saved(slice, tmp_path / "a.dcm", syntax)).stored, samples())
    slice.PixelData = 2 * pixels
    with pytest.raises(InputError, match=r"has 7844 bytes of pixels, but 1 frame of 37 x 53 .* take 3922;"):
        find_series(saved(slice, tmp_path / "b.dcm", syntax))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_file_cut_short_is_refused_at_every_length(tmp_path, syntax):
    whole = saved(ct(samples()), tmp_path / "in.dcm", syntax).read_bytes()
    path = tmp_path / "cut.dcm"
    for size in np.linspace(140, len(whole) - 20, 25, dtype=int):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut short|damaged|not a CT image|lacks"):
            read(path)


def test_damaged_run_lengths_are_read_or_refused_but_never_end_the_run(tmp_path):
    whole = saved(ct(samples()), tmp_path / "in.dcm", uids.RLELossless).read_bytes()
    start = whole.index(b"\xe0\x7f\x10\0") + 40
    path = tmp_path / "damaged.dcm"
    for place in range(start, start + 800, 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(InputError):
            read(path)


def test_a_slice_too_large_for_the_memory_is_named(tmp_path, monkeypatch):
    path = saved(ct(samples()), tmp_path / "in.dcm")

    def exhausted(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(slices, "pixel_array", exhausted)
    with pytest.raises(InputError, match=r"in\.dcm: there is not enough memory"):
        read(path)


@pytest.mark.parametrize("syntax", [uids.MPEG4HP41, UID("1.2.3.4")])
def test_a_compression_that_cannot_be_decoded_is_named(tmp_path, syntax):
    path = saved(ct(samples()), tmp_path / "in.dcm")
    slice = pydicom.dcmread(path)
    slice.PixelData = encapsulate([slice.PixelData])
    slice["PixelData"].is_undefined_length = True
    slice.file_meta.TransferSyntaxUID = syntax
    slice.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(InputError, match=f"{re.escape(syntax.name)}, which cannot be read; convert it"):
        read(path)


def test_a_decoder_that_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    path = saved(ct(samples()), tmp_path / "in.dcm", uids.JPEG2000Lossless)
    monkeypatch.setattr(slices, "get_decoder", lambda _: SimpleNamespace(available_plugins=()))
    with pytest.raises(InputError, match="pip install pylibjpeg pylibjpeg-openjpeg"):
        read(path)


COMPRESSED = [uids.JPEG2000Lossless, *ENCODERS]


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("size", [(W, H), (H // 2, W), (H, W // 2), (2 * H, W)])
def test_compressed_pixels_of_another_size_than_the_header_are_refused(tmp_path, syntax, size):
    slice = ct(samples())
    saved(slice, tmp_path / "in.dcm", syntax)
    slice.Rows, slice.Columns = size
    slice.save_as(tmp_path / "in.dcm", enforce_file_format=True)
    with pytest.raises(
        InputError, match=f"pixels are {H} x {W}, but Rows x Columns are {size[0]} x {size[1]};"
    ):
        read(tmp_path / "in.dcm")


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
def test_damaged_codestreams_are_read_or_refused_but_never_end_the_run(tmp_path, syntax):
    whole = saved(ct(samples()), tmp_path / "in.dcm", syntax).read_bytes()
    start = whole.index(b"\xe0\x7f\x10\0") + 40
    path = tmp_path / "damaged.dcm"
    for place in [*range(start, start + 60), *range(start + 60, len(whole), 200)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(InputError):
            read(path)


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.name)
def test_a_codestream_may_be_padded_by_any_length_and_has_to_end(tmp_path, syntax):
    stored = samples()
    codestream = bytes(ENCODERS[syntax](stored.astype("u2")))
    slice = ct(stored, bits=12, signed=False)
    path = saved_frame(tmp_path / "in.dcm", slice, codestream.ljust(2 * len(codestream), b"\0"), syntax)
    np.testing.assert_array_equal(read(path).stored, stored)
    saved_frame(path, slice, codestream[: len(codestream) // 2].ljust(len(codestream), b"\0"), syntax)
    with pytest.raises(InputError, match="missing, damaged or cut short"):
        read(path)


def test_lossy_jpeg_of_12_bits_is_read(tmp_path):
    stored = np.add.outer(40 * np.arange(H), 50 * np.arange(W))
    codestream = imagecodecs.jpeg8_encode(stored.astype("u2"), level=98, bitspersample=12)
    slice = ct(stored, bits=12, signed=False)
    path = saved_frame(tmp_path / "in.dcm", slice, codestream, uids.JPEGExtended12Bit)
    assert abs(read(path).stored.astype(int) - stored).max() < 20


def test_loss_that_leads_beyond_the_bits_does_not_begin_again_at_zero(tmp_path):
    stored = np.full((H, W), 4095)
    stored[::2] = 4090
    codestream = imagecodecs.jpegls_encode(stored.astype("u2"), level=4)
    assert imagecodecs.jpegls_decode(codestream).max() > 4095
    slice = ct(stored, bits=12, signed=False)
    path = saved_frame(tmp_path / "in.dcm", slice, codestream, uids.JPEGLSNearLossless)
    assert abs(read(path).stored.astype(int) - stored).max() <= 4


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_a_file_without_preamble_is_read(tmp_path, syntax):
    stored = samples()
    whole = saved(ct(stored), tmp_path / "in.dcm", syntax)
    header = pydicom.dcmread(whole)
    bare = tmp_path / "bare"
    pydicom.dcmwrite(
        bare,
        Dataset(header),
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )
    assert bare.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read(bare).hu, stored - 1024)


def test_pixel_size_is_asked_for_only_where_it_is_missing(tmp_path):
    path = saved(ct(samples(), PixelSpacing=None), tmp_path / "in.dcm")
    (series,) = find_series(path, pixel_mm=(0.7, 1 / 3)).series
    slice = read_slice(series, 0)
    assert slice.pixel_mm == (0.7, 1 / 3)
    DerivedSeries(series, "test", "test").write(slice, slice.hu, tmp_path / "out.dcm")
    np.testing.assert_allclose(pydicom.dcmread(tmp_path / "out.dcm").PixelSpacing, (0.7, 1 / 3))

    stated = saved(ct(samples()), tmp_path / "stated.dcm")
    assert find_series(stated, pixel_mm=(3, 3)).series[0].pixel_mm == (0.8, 0.8)


def test_identity_is_taken_from_the_file_meta_or_made_up_alike_each_time(tmp_path):
    for j in range(2):
        path = saved(ct(samples(j), ImagePositionPatient=["0", "0", f"{j}"]), tmp_path / f"{j}.dcm")
        slice = pydicom.dcmread(path)
        slice.SOPClassUID = slice.SOPInstanceUID = slice.SeriesInstanceUID = slice.StudyInstanceUID = ""
        slice.save_as(path)
        instance = slice.file_meta.MediaStorageSOPInstanceUID
    (series,) = find_series(tmp_path).series
    assert [one.uid for one in find_series(tmp_path).series] == [series.uid]
    result = derived(path, tmp_path / "out")
    assert result.StudyInstanceUID
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == instance


# Several frames


def test_frames_have_their_own_position_and_rescaling(tmp_path):
    frames = samples(high=1000, shape=(3, H, W))
    path = saved(enhanced(frames, [10, 0, 5], ["1", "2", "0.5"]), tmp_path / "in.dcm")
    (series,) = find_series(path).series
    assert [slice.frame for slice in series.slices] == [1, 2, 0]
    assert series.pixel_mm == (0.5, 0.7)
    made = DerivedSeries(series, "deepgsr test", "test")
    for i, (frame, slope, z) in enumerate([(1, 2, 0), (2, 0.5, 5), (0, 1, 10)]):
        slice = read_slice(series, i)
        np.testing.assert_array_equal(slice.hu, frames[frame] * slope - 1000)
        made.write(slice, slice.hu, tmp_path / f"out{i}.dcm")
        result = pydicom.dcmread(tmp_path / f"out{i}.dcm")
        np.testing.assert_array_equal(result.pixel_array, frames[frame])
        assert result.SOPClassUID == uids.CTImageStorage
        assert result.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (result.RescaleSlope, result.InstanceNumber) == (slope, i + 1)
        assert (result.ImagePositionPatient, result.PixelSpacing) == ([-20, -15, z], [0.5, 0.7])
        assert (result.WindowCenter, result.SliceThickness) == (50, 3)
        assert (result.DistanceSourceToDetector, result.DistanceSourceToPatient) == (1040, 570)
        assert result.SourceImageSequence[0].ReferencedFrameNumber == frame + 1
        assert "PerFrameFunctionalGroupsSequence" not in result
        assert "NumberOfFrames" not in result
    assert len({pydicom.dcmread(tmp_path / f"out{i}.dcm").SOPInstanceUID for i in range(3)}) == 3


def test_distances_of_frames_have_no_more_digits_than_a_single_frame_holds(tmp_path):
    image = enhanced(samples(shape=(1, H, W)), [0.0], ["1"])
    (geometry,) = image.SharedFunctionalGroupsSequence[0].CTGeometrySequence
    geometry.DistanceSourceToDataCollectionCenter = 570.1234567890123
    result = derived(saved(image, tmp_path / "in.dcm"), tmp_path / "out.dcm")
    assert str(result.DistanceSourceToPatient) == "570.123456789012"


def test_the_header_of_many_frames_is_parsed_once(tmp_path, monkeypatch):
    frames = samples(shape=(5, H, W))
    path = saved(enhanced(frames, [0, 1, 2, 3, 4], ["1"] * 5), tmp_path / "in.dcm", uids.RLELossless)
    (series,) = find_series(path).series
    calls = []
    dcmread = pydicom.dcmread
    monkeypatch.setattr(
        pydicom, "dcmread", lambda *args, **kwargs: calls.append(1) or dcmread(*args, **kwargs)
    )
    for i in range(5):
        np.testing.assert_array_equal(read_slice(series, i).stored, frames[i])
    assert len(calls) == 1


def test_frames_and_their_functional_groups_must_be_as_many(tmp_path):
    image = enhanced(samples(shape=(3, H, W)), [0, 1, 2], ["1"] * 3)
    image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:2]
    with pytest.raises(InputError, match="3 frames, but functional groups of 2"):
        find_series(saved(image, tmp_path / "in.dcm"))


def test_frames_without_functional_groups_are_in_the_order_of_the_file(tmp_path):
    frames = samples(shape=(3, H, W))
    path = saved(ct(frames, NumberOfFrames=3), tmp_path / "in.dcm")
    (series,) = find_series(path).series
    for i in range(3):
        np.testing.assert_array_equal(read_slice(series, i).stored, frames[i])
    assert "ImagePositionPatient" in series.notes[0]


# Derived series


@pytest.mark.parametrize(
    ("width", "function", "kept"),
    [
        ("0", None, False),
        (["350", "0"], "LINEAR", False),
        ("0.5", "LINEAR", False),
        ("0.5", "LINEAR_EXACT", True),
        (["350", "1"], None, True),
    ],
)
def test_a_derived_slice_has_no_window_that_cannot_be(tmp_path, width, function, kept):
    centre = ["50", "40"] if isinstance(width, list) else "50"
    source = ct(samples(), WindowCenter=centre, WindowWidth=width)
    if function is not None:
        source.VOILUTFunction = function
    result = derived(saved(source, tmp_path / "in.dcm"), tmp_path / "out.dcm")
    for keyword in ("WindowCenter", "WindowWidth"):
        assert (keyword in result) == kept
    assert ("VOILUTFunction" in result) == (kept and function is not None)


def test_a_derived_slice_is_new_and_says_what_it_is(tmp_path):
    source = ct(samples(), SmallestImagePixelValue=0, LossyImageCompression="01", BodyPartExamined="CHEST")
    source.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    source.add_new((0x0009, 0x1001), "LO", "private")
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "L", "Scan"
    item.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    source.ProcedureCodeSequence = [item]
    source.DigitalSignaturesSequence = [item]
    source.DerivationDescription = "Smoothed"
    source.add_new((0x6000, 0x0100), "US", 16)  # an overlay in the unused bits
    path = saved(source, tmp_path / "in.dcm")
    result = derived(path, tmp_path / "out.dcm", derivation="ct-recon --views 60")

    kept = (
        "PatientName PatientID StudyInstanceUID FrameOfReferenceUID PixelSpacing ImagePositionPatient Rows "
    )
    kept += (
        "ImageOrientationPatient WindowCenter WindowWidth Manufacturer InstanceNumber LossyImageCompression"
    )
    for keyword in kept.split():
        assert result[keyword] == source[keyword], keyword
    assert result.ProcedureCodeSequence[0].CodeMeaning == "Scan"

    assert (
        len(
            {source.SOPInstanceUID, source.SeriesInstanceUID, result.SOPInstanceUID, result.SeriesInstanceUID}
        )
        == 4
    )
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
    assert result.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert (result.SeriesDescription, result.SeriesNumber) == ("Thorax [deepgsr test]", 1004)
    assert result.DerivationDescription.startswith("Smoothed; then deepgsr ")
    assert result.DerivationDescription.endswith("ct-recon --views 60; research use only, not for diagnosis")
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert result.ContributingEquipmentSequence[-1].Manufacturer == "deepgsr"

    for keyword in ("SmallestImagePixelValue", "DigitalSignaturesSequence", "Laterality"):
        assert keyword not in result
    assert not [element for element in result.iterall() if element.tag.is_private]
    assert (0x6000, 0x0100) not in result


@pytest.mark.parametrize(
    ("number", "derived_number"), [(4, 1004), (None, 1000), (2**31 - 1, 2**31 - 1), ([7, 8], 1007)]
)
def test_a_series_number_stays_one_that_a_file_may_have(tmp_path, number, derived_number):
    source = saved(ct(samples(), SeriesNumber=number), tmp_path / "in.dcm")
    assert derived(source, tmp_path / "out.dcm").SeriesNumber == derived_number


def test_what_a_ct_image_must_have_is_completed(tmp_path):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning, item.CodingSchemeVersion = "1", "L", "", ""
    gone = dict.fromkeys(["FrameOfReferenceUID", "Manufacturer", "PatientID", "SeriesNumber"])
    source = ct(samples(), ProcedureCodeSequence=[item], RequestedProcedureCodeSequence=[Dataset()], **gone)
    result = derived(saved(source, tmp_path / "in.dcm"), tmp_path / "out.dcm")
    assert (result.PatientID, result.Manufacturer, result.Laterality, result.SeriesNumber) == (
        "",
        "",
        "",
        1000,
    )
    assert result.FrameOfReferenceUID
    assert result.ProcedureCodeSequence[0].CodeMeaning == "1"
    assert "CodingSchemeVersion" not in result.ProcedureCodeSequence[0]
    assert "RequestedProcedureCodeSequence" not in result


def test_burnt_in_text_is_noted(tmp_path):
    path = saved(ct(samples(), BurnedInAnnotation="YES"), tmp_path / "in.dcm")
    assert "burnt into" in find_series(path).series[0].notes[0]


def test_a_run_that_is_started_again_completes_the_same_series(tmp_path):
    paths = saved_series(tmp_path / "in", ["0", "5"])
    (series,) = find_series(tmp_path / "in").series

    def run(name: str, derivation: str) -> list[tuple[str, str]]:
        made = DerivedSeries(series, "test", derivation)
        for i in range(2):
            slice = read_slice(series, i)
            made.write(slice, slice.hu, tmp_path / f"{name}{i}.dcm")
        results = [pydicom.dcmread(tmp_path / f"{name}{i}.dcm") for i in range(2)]
        return [(result.SeriesInstanceUID, result.SOPInstanceUID) for result in results]

    first = run("a", "views 60")
    assert first == run("b", "views 60")
    assert first[0][0] == first[1][0]
    assert first[0][1] != first[1][1]
    assert not {uid for pair in first for uid in pair} & {
        uid for pair in run("c", "views 90") for uid in pair
    }
    alone = derived(paths[1], tmp_path / "alone.dcm", derivation="views 60")
    assert (alone.SeriesInstanceUID, alone.SOPInstanceUID) == first[1]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_names_and_values_survive_the_change_of_encoding(tmp_path, syntax):
    source = ct(samples(), SpecificCharacterSet="ISO_IR 192", PatientName="Bühler^Ägidius")
    source.KVP, source.Exposure = "120.50", "250"
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [3, 0, 16], [1, 2, 40000]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    source.VOILUTSequence = [table]
    source.SpiralPitchFactor = 0.8
    result = derived(saved(source, tmp_path / "in.dcm", syntax), tmp_path / "out.dcm")
    assert str(result.PatientName) == "Bühler^Ägidius"
    assert (str(result.KVP), result.Exposure, result.SpiralPitchFactor) == ("120.50", 250, 0.8)
    table_data = result.VOILUTSequence[0].LUTData
    if isinstance(table_data, bytes):  # OW and US are both right
        table_data = np.frombuffer(table_data, "<u2")
    assert list(table_data) == [1, 2, 40000]


def test_values_that_cannot_be_parsed_are_left_out(tmp_path):
    path = saved(ct(samples(), KVP="120.50"), tmp_path / "in.dcm")
    path.write_bytes(path.read_bytes().replace(b"120.50", b"12x.5 "))
    assert derived(path, tmp_path / "out.dcm").KVP is None


def test_file_meta_elements_astray_in_the_dataset_are_left_out(tmp_path):
    path = saved(ct(samples()), tmp_path / "in.dcm")
    patient = b"\x10\0\x10\0PN"
    path.write_bytes(path.read_bytes().replace(patient, b"\x02\0\x16\0AE\x04\0HERE" + patient, 1))
    assert (0x0002, 0x0016) not in derived(path, tmp_path / "out.dcm")


def test_long_texts_are_cut_but_never_the_warning(tmp_path):
    path = saved(ct(samples(), SeriesDescription="x" * 64), tmp_path / "in.dcm")
    result = derived(path, tmp_path / "out.dcm", derivation="weights größer " * 100)
    assert result.SeriesDescription.endswith("xx [deepgsr test]")
    assert len(result.SeriesDescription) == 64
    assert result.DerivationDescription.endswith("; research use only, not for diagnosis")
    assert len(result.DerivationDescription) == 1024
    assert result.DerivationDescription.isascii()  # the character set of the source may not have more


def test_the_source_is_never_written_over(tmp_path):
    path = saved(ct(samples()), tmp_path / "in.dcm")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is the source"):
        derived(path, path)
    assert path.read_bytes() == before
    with pytest.raises(ShapeError, match=r"\(2, 2\).*\(37, 53\)"):
        derived(path, tmp_path / "out.dcm", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="finite"):
        derived(path, tmp_path / "out.dcm", np.full((H, W), np.nan))
    assert not (tmp_path / "out.dcm").exists()


def test_another_reader_sees_the_derived_series_as_the_same_volume(tmp_path):
    saved_series(tmp_path / "in", ["0", "2.5", "5"], PixelSpacing=["0.5", "0.75"])
    (series,) = find_series(tmp_path / "in").series
    (tmp_path / "out").mkdir()
    made = DerivedSeries(series, "test", "test")
    for i in range(3):
        slice = read_slice(series, i)
        made.write(slice, slice.hu + i, tmp_path / "out" / f"{3 - i}.dcm")
    volumes = []
    for folder in ("in", "out"):
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / folder))
        assert len(names) == 3
        volumes.append(SimpleITK.ReadImage(names))
    source, result = volumes
    assert result.GetSpacing() == source.GetSpacing() == (0.75, 0.5, 2.5)
    assert result.GetOrigin() == source.GetOrigin()
    assert result.GetDirection() == source.GetDirection()
    difference = SimpleITK.GetArrayFromImage(result) - SimpleITK.GetArrayFromImage(source)
    np.testing.assert_array_equal(difference, np.broadcast_to(np.arange(3)[:, None, None], (3, H, W)))


# New series


def test_a_slice_without_source_is_a_ct_image_of_nobody(tmp_path):
    hu = np.random.default_rng(0).normal(0, 500, (H, W)).astype(np.float32)
    hu[0, :2] = [-1e6, 1e6]
    for j in range(2):
        write_new(
            hu + j,
            (0.5, 0.75),
            tmp_path / f"{j}.dcm",
            measurement="sha256 of the sinogram",
            description="deepgsr ct-recon",
            derivation="ct-recon --views 60",
            place=(j + 1, 3.0 * j),
        )
    (series,) = find_series(tmp_path).series
    assert [slice.path.name for slice in series.slices] == ["0.dcm", "1.dcm"]
    slice = read_slice(series, 1)
    np.testing.assert_array_equal(slice.hu, np.rint(hu + 1).clip(-32768, 32767))
    assert slice.pixel_mm == (0.5, 0.75)
    assert slice.position_mm == (-19.5, -9, 3)  # the centre of the image is on the axis
    assert slice.header.PatientName == "ANONYMOUS"
    assert slice.header.ImageType[0] == "DERIVED"
    assert "not for diagnosis" in slice.header.DerivationDescription
    image = SimpleITK.ReadImage(str(tmp_path / "1.dcm"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image)[0], slice.hu)
    assert image.GetSpacing()[:2] == (0.75, 0.5)
    assert image.GetOrigin() == (-19.5, -9, 3)


def test_not_a_ct_is_a_kind_of_input_error(tmp_path):
    path = saved(ct(samples(), SOPClassUID=uids.MRImageStorage), tmp_path / "in.dcm")
    with pytest.raises(NotCTError):
        find_series(path)


# What scanners, anonymisers and converters get wrong


def derived_of(path: Path, out: Path) -> list[Dataset]:
    """The derived images of all slices of a file or folder, as they are read again."""
    (series,) = find_series(path).series
    made = DerivedSeries(series, "test", "test")
    out.mkdir()
    for i in range(len(series.slices)):
        slice = read_slice(series, i)
        made.write(slice, slice.hu, out / f"{i}.dcm")
    return [pydicom.dcmread(out / f"{i}.dcm") for i in range(len(series.slices))]


def test_slices_that_share_an_instance_become_images_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    uid = generate_uid()
    for j in range(3):
        place = ["-20", "-15", str(5 * j)]
        slice = ct(samples(j), SOPInstanceUID=uid, ImagePositionPatient=place, InstanceNumber=j)
        saved(slice, tmp_path / "in" / str(j))
    assert "slices share a SOPInstanceUID" in find_series(tmp_path / "in").series[0].notes[0]
    made = derived_of(tmp_path / "in", tmp_path / "out")
    assert len({slice.SOPInstanceUID for slice in made}) == 3
    # One by one, as they come from another run, they are the same images.
    for j, slice in enumerate(made):
        (alone,) = derived_of(tmp_path / "in" / str(j), tmp_path / f"alone{j}")
        assert alone.SOPInstanceUID == slice.SOPInstanceUID


@pytest.mark.parametrize("nested", [False, True])
def test_latin_letters_under_a_header_that_says_utf8_are_kept(tmp_path, nested):
    slice = ct(samples(), SpecificCharacterSet="ISO_IR 192", StudyDescription="Größe")
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "Q" * 8
    slice.ProcedureCodeSequence = [item]
    slice.PatientName = "R" * 8
    path = saved(slice, tmp_path / "in.dcm")
    wrong = b"Q" * 8 if nested else b"R" * 8
    path.write_bytes(path.read_bytes().replace(wrong, "Müller  ".encode("latin-1")))
    (made,) = derived_of(path, tmp_path / "out")
    text = made.ProcedureCodeSequence[0].CodeMeaning if nested else str(made.PatientName)
    assert text.strip() == "Müller"
    assert made.StudyDescription == "Größe"


@pytest.mark.parametrize("keyword", ["SpacingBetweenSlices", "SliceThickness", None])
def test_frames_of_a_single_frame_class_have_places_of_their_own(tmp_path, keyword):
    frames = np.stack([samples(j) for j in range(3)])
    slice = ct(frames, NumberOfFrames=3, **({keyword: "2.5"} if keyword else {}))
    path = saved(slice, tmp_path / "in.dcm")
    (series,) = find_series(path).series
    made = derived_of(path, tmp_path / "out")
    positions = [list(map(float, frame.get("ImagePositionPatient") or ())) for frame in made]
    if keyword:
        assert positions == [[-20, -15, 2.5 * j] for j in range(3)]
        assert "its frames have one ImagePositionPatient" in series.notes[0]
    else:
        assert not any(positions)
    assert not any("ImagePositionPatient is missing" in note for note in series.notes)
    assert len({frame.SOPInstanceUID for frame in made}) == 3
    for frame in made:  # only of a multi-frame class may a frame be named
        assert "ReferencedFrameNumber" not in frame.SourceImageSequence[0]


@pytest.mark.parametrize("modality", [None, "PT"])
def test_a_result_is_of_modality_ct_whatever_the_source_says(tmp_path, modality):
    path = saved(ct(samples(), Modality=modality), tmp_path / "in.dcm")
    assert derived_of(path, tmp_path / "out")[0].Modality == "CT"


@pytest.mark.parametrize("keywords", [("SamplesPerPixel",), ("SamplesPerPixel", "PhotometricInterpretation")])
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_what_gray_pixels_are_may_be_left_unsaid(tmp_path, syntax, keywords):
    path = saved(ct(samples(), **dict.fromkeys(keywords)), tmp_path / "in.dcm", syntax)
    np.testing.assert_array_equal(read(path).stored, samples())
    result = derived(path, tmp_path / "out.dcm")
    assert result.PhotometricInterpretation == "MONOCHROME2"
    np.testing.assert_array_equal(result.pixel_array, samples())


def test_elements_encoded_otherwise_than_the_file_says_are_read(tmp_path):
    path = saved(ct(samples()), tmp_path / "in.dcm", uids.ImplicitVRLittleEndian)
    stated, other = uids.ImplicitVRLittleEndian.encode(), uids.ExplicitVRLittleEndian.encode()
    held = path.read_bytes()
    # Of the same length, so that the group length stays right.
    held = held.replace(b"UI" + bytes([18, 0]) + stated + b"\0", b"UI" + bytes([20, 0]) + other + b"\0")
    length = held.index(b"UL\x04\0") + 4
    held = (
        held[:length]
        + (int.from_bytes(held[length : length + 4], "little") + 2).to_bytes(4, "little")
        + held[length + 4 :]
    )
    path.write_bytes(held)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == uids.ExplicitVRLittleEndian
    np.testing.assert_array_equal(read(path).stored, samples())


def test_bytes_that_cannot_be_parsed_are_no_matter_of_the_path(tmp_path, monkeypatch):
    path = saved(ct(samples()), tmp_path / "in.dcm")

    def lost(*args: object, **kwargs: object) -> None:
        raise OSError("No tag to read at file position 81994")

    monkeypatch.setattr(pydicom, "dcmread", lost)
    with pytest.raises(InputError, match=r"is damaged .* or of an encoding that cannot be read; .* dcmconv"):
        find_series(path)
