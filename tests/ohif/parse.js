// Reads a DICOM segmentation as the OHIF viewer does: node parse.cjs SEG SOURCE...
// Prints JSON: what the segments are, and which segment each pixel of each source image has.
import fs from 'node:fs';
import dcmjs from 'dcmjs';
import { cache, metaData } from '@cornerstonejs/core';
import { adaptersSEG } from '@cornerstonejs/adapters';

const [segPath, ...sourcePaths] = process.argv.slice(2);

function bufferOf(path) {
  const bytes = fs.readFileSync(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

const instances = new Map();
for (const path of sourcePaths) {
  const file = dcmjs.data.DicomMessage.readFile(bufferOf(path));
  const data = dcmjs.data.DicomMetaDictionary.naturalizeDataset(file.dict);
  instances.set(`file:${data.SOPInstanceUID}`, data);
}

function get(type, imageId) {
  const data = instances.get(imageId);
  if (!data) return undefined;
  const cosines = data.ImageOrientationPatient.map(Number);
  switch (type) {
    case 'instance':
      return data;
    case 'generalImageModule':
    case 'sopCommonModule':
      return { sopInstanceUID: data.SOPInstanceUID, sopClassUID: data.SOPClassUID };
    case 'generalSeriesModule':
      return { seriesInstanceUID: data.SeriesInstanceUID, modality: data.Modality };
    case 'imagePlaneModule':
      return {
        frameOfReferenceUID: data.FrameOfReferenceUID,
        rows: data.Rows,
        columns: data.Columns,
        imageOrientationPatient: cosines,
        rowCosines: cosines.slice(0, 3),
        columnCosines: cosines.slice(3),
        imagePositionPatient: data.ImagePositionPatient.map(Number),
        rowPixelSpacing: Number(data.PixelSpacing[0]),
        columnPixelSpacing: Number(data.PixelSpacing[1]),
        pixelSpacing: data.PixelSpacing.map(Number),
        sliceThickness: Number(data.SliceThickness),
      };
    case 'imagePixelModule':
      return {
        rows: data.Rows,
        columns: data.Columns,
        bitsAllocated: data.BitsAllocated,
        bitsStored: data.BitsStored,
        highBit: data.HighBit,
        samplesPerPixel: 1,
        pixelRepresentation: data.PixelRepresentation,
        photometricInterpretation: data.PhotometricInterpretation,
      };
    default:
      return undefined;
  }
}

metaData.addProvider(get, 1000);
cache.setMaxCacheSize(2 ** 31);
const imageIds = [...instances.keys()];
async function main() {
  const read = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(imageIds, bufferOf(segPath), {
    metadataProvider: { get, addInstance: (id, data) => instances.set(id, data) },
  });

  const groups = read.labelMapImages.map((images) =>
    Object.fromEntries(
      images.map((image) => [
        get('generalImageModule', image.referencedImageId).sopInstanceUID,
        Buffer.from(Uint16Array.from(image.voxelManager.getScalarData()).buffer).toString('base64'),
      ]),
    ),
  );
  const segments = read.segMetadata.data.filter(Boolean).map((s) => ({
    number: Number(s.SegmentNumber),
    label: s.SegmentLabel,
    type: [s.SegmentedPropertyTypeCodeSequence].flat()[0],
  }));
  process.stdout.write(JSON.stringify({ groups, segments, overlapping: Boolean(read.overlappingSegments) }), () => process.exit(0));
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`, () => process.exit(1));
});
