// protos/ against Envoy: a wrong number there reads one field as another, silently. Everything is walked, so what is added is checked too.
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadSync, type MethodDefinition, type PackageDefinition, type ServiceDefinition } from '@grpc/proto-loader';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as messages from '../../src/extproc/messages.ts';
import {
  accessLogName,
  accessLogService,
  decodeProcessingRequest,
  decodeProcessingResponse,
  decodeStreamAccessLogsMessage,
  encodeProcessingRequest,
  encodeProcessingResponse,
  encodeStreamAccessLogsMessage,
  externalProcessorName,
  externalProcessorService,
  packageDefinition,
  reflectionPackage,
} from '../../src/extproc/proto.ts';
import { declaredInterfaces } from './declared-interfaces.ts';
import {
  contradictions,
  decodeFileDescriptor,
  descriptorFromBinary,
  descriptorFromWheel,
  factsOf,
  fieldTypes,
  labelRepeated,
  missingFrom,
  parsePythonBytes,
  readFields,
  type FieldDescriptor,
  type FileDescriptor,
  type MessageDescriptor,
} from './official-descriptors.ts';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const protosFolder = path.join(root, 'protos');
const protoFiles = readdirSync(protosFolder, { recursive: true, encoding: 'utf8' })
  .map((file) => file.split(path.sep).join('/'))
  .filter((file) => file.endsWith('.proto'));

// The descriptors that reflection serves, so that this test covers them too. They are made from what the codec loaded.
const ourFiles = descriptorsIn(reflectionPackage());
const ours = factsOf(ourFiles);

function descriptorsIn(definitions: PackageDefinition): FileDescriptor[] {
  const found = Object.values(definitions).find((definition) => 'fileDescriptorProtos' in definition);
  return ((found?.fileDescriptorProtos ?? []) as Buffer[]).map(decodeFileDescriptor);
}

/** The official files that ours stand for: those of the same path, and Google's that ours import. */
const officialFiles = [
  ...new Set([
    ...protoFiles,
    ...protoFiles.flatMap((file) =>
      [...readFileSync(path.join(protosFolder, file), 'utf8').matchAll(/^import "(google\/[^"]+)";$/gm)].map((match) => match[1] ?? ''),
    ),
  ]),
];

function wheelFacts(): Map<string, string> {
  const folder = process.env.FAIRLEAD_OFFICIAL_PROTOS ?? path.join(root, '.cache/xds-protos');
  const files = officialFiles.flatMap((file) => descriptorFromWheel(folder, file) ?? []);
  if (files.length === 0) throw new Error(`no official protos in ${folder}: run \`npm test\`, or \`npm run setup\` first`);
  return factsOf(files);
}

/** Undefined when there is no Envoy, or when it is a script that starts one elsewhere. */
function envoyFacts(): Map<string, string> | undefined {
  const file = process.env.ENVOY_BIN ?? path.join(root, '.cache/envoy/envoy/_bin/envoy');
  if (!existsSync(file) || isScript(file)) return undefined;
  const binary = readFileSync(file);
  return factsOf(officialFiles.flatMap((name) => descriptorFromBinary(binary, name) ?? []));
}

function isScript(file: string): boolean {
  const head = Buffer.alloc(2);
  const open = openSync(file, 'r');
  readSync(open, head);
  closeSync(open);
  return head.toString('latin1') === '#!';
}

const envoy = envoyFacts();

describe('protos/ against the official descriptors', () => {
  it('is loaded wholly by src/extproc/proto.ts', () => {
    const all = loadSync(protoFiles, { keepCase: true, includeDirs: [protosFolder] });
    expect(Object.keys(packageDefinition).sort()).toEqual(Object.keys(all).sort());
  });

  it('means the same as in the xds-protos wheel', () => {
    const wheel = wheelFacts();
    expect(contradictions(ours, wheel)).toEqual([]);
    // Only Google's own messages are not in the wheel, and what is newer than it.
    expect([...ours.keys()].filter((name) => wheel.has(name)).length).toBeGreaterThan(300);
  });

  it("means the same as in Envoy's binary", ({ skip }) => {
    if (envoy === undefined) return skip('no Envoy binary at ENVOY_BIN or in .cache/');
    expect(contradictions(ours, envoy)).toEqual([]);
    expect([...ours.keys()].filter((name) => envoy.has(name)).length).toBeGreaterThan(300);
  });

  it('invents no name', () => {
    const official = new Map([...wheelFacts(), ...(envoy ?? [])]);
    const checkable = new Map([...ours].filter(([name]) => envoy !== undefined || !name.startsWith('google.')));
    expect(missingFrom(official, checkable)).toEqual([]);
  });

  it('has the method paths that Envoy calls', () => {
    expect(externalProcessorService.Process).toMatchObject({
      path: '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
      requestStream: true,
      responseStream: true,
    });
    expect(accessLogService.StreamAccessLogs).toMatchObject({
      path: '/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs',
      requestStream: true,
      responseStream: false,
    });
    expect([ours.get(externalProcessorName), ours.get(accessLogName)]).toEqual(['service', 'service']);
  });
});

describe('reflectionPackage', () => {
  // Clients build types from these files alone, and refuse a type that is in no file imported.
  it('imports in each file exactly the files of the types it uses', () => {
    const fileOf = new Map(ourFiles.flatMap((file) => [...factsOf([file]).keys()].map((name) => [name, file.name])));
    expect(ourFiles.length).toBeGreaterThan(5);
    for (const file of ourFiles) {
      const used = messagesIn(file).flatMap(({ descriptor }) => (descriptor.field ?? []).flatMap(({ typeName }) => typeName ?? []));
      expect(used.filter((name) => !name.startsWith('.') || !fileOf.has(name.slice(1)))).toEqual([]);
      const imports = new Set(used.map((name) => fileOf.get(name.slice(1))));
      imports.delete(file.name);
      expect(new Set(file.dependency)).toEqual(imports);
    }
  });

  it('keeps services and names', () => {
    expect(Object.keys(reflectionPackage())).toEqual(Object.keys(packageDefinition));
    expect(reflectionPackage()[externalProcessorName]).toBe(externalProcessorService);
  });
});

describe('the comparison', () => {
  const file = (field: Partial<FieldDescriptor>, value = 1): FileDescriptor => ({
    name: 'a.proto',
    package: 'a',
    messageType: [
      { name: 'M', field: [{ name: 'f', number: 1, label: 1, type: 9, ...field }], oneofDecl: [{ name: 'o' }, { name: 'p' }] },
      { name: 'N', nestedType: [{ name: 'Inner' }], enumType: [{ name: 'E', value: [{ name: 'X', number: value }] }] },
    ],
    service: [{ name: 'S', method: [{ name: 'Do', inputType: '.a.M', outputType: '.a.N', clientStreaming: value === 1 }] }],
  });
  const official = factsOf([file({ oneofIndex: 0 })]);

  it('finds no fault with equals, or with less than the official', () => {
    expect(contradictions(factsOf([file({ oneofIndex: 0 })]), official)).toEqual([]);
    expect(contradictions(factsOf([{ name: 'a.proto', package: 'a' }]), official)).toEqual([]);
  });

  it.each<[string, Partial<FieldDescriptor>]>([
    ['number', { oneofIndex: 0, number: 2 }],
    ['label', { oneofIndex: 0, label: 3 }],
    ['type', { oneofIndex: 0, type: 12 }],
    ['message type', { oneofIndex: 0, typeName: '.a.N' }],
    ['oneof', { oneofIndex: 1 }],
    ['membership in a oneof', {}],
    ['presence', { oneofIndex: 0, proto3Optional: true }],
    ['name', { oneofIndex: 0, name: 'g' }],
  ])("notices a field's other %s", (_, change) => {
    const found = contradictions(factsOf([file(change)]), official);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain('a.M.');
  });

  it("notices an enum value's other number and a method's other streaming", () => {
    expect(contradictions(factsOf([file({ oneofIndex: 0 }, 2)]), official)).toEqual([
      'a.N.E.X: ours is "#2", Envoy\'s "#1"',
      'a.S.Do: ours is ".a.M → .a.N", Envoy\'s "stream .a.M → .a.N"',
    ]);
  });

  it('tells a new name from one that steals a number', () => {
    const newer = factsOf([file({ name: 'newer', number: 7 })]);
    expect(contradictions(newer, official)).toEqual([]);
    expect(missingFrom(official, newer)).toEqual(['a.M.newer']);
  });
});

describe('parsePythonBytes', () => {
  it.each([
    [String.raw`b'a\n\x12\"\'\\\r\t'`, [97, 10, 0x12, 34, 39, 92, 13, 9]],
    [String.raw`b"it's \x41A\1018\0"`, [105, 116, 39, 115, 32, 65, 65, 65, 56, 0]],
    [String.raw`b'\xff\377\x0a1'`, [255, 255, 10, 49]],
    ["b''", []],
  ])('reads %s', (text, bytes) => {
    expect([...parsePythonBytes(`${text}) trailing 'text'`)]).toEqual(bytes);
  });

  it.each([["'a'"], ["b'a"], [String.raw`b'\q'`], [String.raw`b'\x4'`], ['']])('refuses %s', (text) => {
    expect(() => parsePythonBytes(text)).toThrow();
  });
});

/** A message type of ours, with the codec's names for its fields. */
interface MessageType {
  fullName: string;
  descriptor: MessageDescriptor;
}

function messagesIn(file: FileDescriptor): MessageType[] {
  const below = (scope: string, list: readonly MessageDescriptor[] = []): MessageType[] =>
    list.flatMap((descriptor) => {
      const fullName = `${scope}.${descriptor.name}`;
      return [{ fullName, descriptor }, ...below(fullName, descriptor.nestedType)];
    });
  return below(file.package, file.messageType);
}

const messageTypes = new Map(ourFiles.flatMap(messagesIn).map((type) => [type.fullName, type]));
const enumValues = new Map<string, Map<string, number>>();
for (const [name, fact] of ours) if (fact === 'enum') enumValues.set(name, new Map());
for (const [name, fact] of ours) enumValues.get(parentOf(name))?.set(name.slice(name.lastIndexOf('.') + 1), Number(fact.slice(1)));

function parentOf(name: string): string {
  return name.slice(0, name.lastIndexOf('.'));
}

function typeOf(field: FieldDescriptor): MessageType {
  const found = messageTypes.get(field.typeName?.slice(1) ?? '');
  if (found === undefined) throw new Error(`${field.name} has no message type`);
  return found;
}

const isMessage = (field: FieldDescriptor): boolean => fieldTypes[field.type] === 'message';

/** The map entry's value, for a map. */
function mapValue(field: FieldDescriptor): FieldDescriptor | undefined {
  if (!isMessage(field)) return undefined;
  const { descriptor } = typeOf(field);
  return descriptor.options?.mapEntry === true ? descriptor.field?.find(({ number }) => number === 2) : undefined;
}

/** The property in which the codec holds a field: protobufjs brings Google's messages in camelCase. */
function propertyOf(owner: MessageType, field: { name: string }): string {
  return owner.fullName.startsWith('google.') ? field.name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase()) : field.name;
}

interface Codec {
  type: string;
  encode: (message: object) => Buffer;
  decode: (bytes: Buffer) => object;
}

const roots: Codec[] = [
  { type: 'envoy.service.ext_proc.v3.ProcessingRequest', encode: encodeProcessingRequest, decode: decodeProcessingRequest },
  { type: 'envoy.service.ext_proc.v3.ProcessingResponse', encode: encodeProcessingResponse, decode: decodeProcessingResponse },
  {
    type: 'envoy.service.accesslog.v3.StreamAccessLogsMessage',
    encode: encodeStreamAccessLogsMessage,
    decode: decodeStreamAccessLogsMessage,
  },
];

/** Each message type that a root holds, with the fields that lead to its first appearance. */
function reachable(rootType: string): Map<MessageType, { owner: MessageType; field: FieldDescriptor }[]> {
  const first = messageTypes.get(rootType);
  if (first === undefined) throw new Error(`no message ${rootType}`);
  const found = new Map<MessageType, { owner: MessageType; field: FieldDescriptor }[]>([[first, []]]);
  for (const [owner, steps] of found) {
    for (const field of owner.descriptor.field ?? []) {
      const value = mapValue(field) ?? field;
      if (isMessage(value) && !found.has(typeOf(value))) found.set(typeOf(value), [...steps, { owner, field }]);
    }
  }
  return found;
}

describe('the codec', () => {
  /** A value that is not the default, and its wire type. */
  function sample(field: FieldDescriptor): { value: unknown; wireType: number } {
    const type = fieldTypes[field.type];
    if (type === 'string') return { value: 'text', wireType: 2 };
    if (type === 'bytes') return { value: Buffer.from([0xff, 0]), wireType: 2 };
    if (type === 'message') return { value: {}, wireType: 2 };
    if (type === 'bool') return { value: true, wireType: 0 };
    if (type === 'double') return { value: 1.5, wireType: 1 };
    if (type === 'float') return { value: 1.5, wireType: 5 };
    if (type === 'enum') return { value: Math.max(...(enumValues.get(field.typeName?.slice(1) ?? '')?.values() ?? [])), wireType: 0 };
    return { value: 300, wireType: 0 };
  }

  /** The value in the shape of its field: itself, a list of one, or a map of one. */
  function shaped(field: FieldDescriptor, value: unknown): unknown {
    if (mapValue(field)) return { key: value };
    return field.label === labelRepeated ? [value] : value;
  }

  const cases = roots.flatMap(({ type, encode, decode }) =>
    [...reachable(type)].flatMap(([owner, steps]) =>
      (owner.descriptor.field ?? []).map((field) => [`${owner.fullName}.${field.name}`, { owner, field, steps, encode, decode }] as const),
    ),
  );

  it('reaches every field of ours', () => {
    const tested = new Set<string>(cases.map(([name]) => name));
    const fields = [...ours.keys()].filter((name) => name.startsWith('envoy.') && ours.get(parentOf(name)) === 'message');
    const own = fields.filter((name) => ours.get(name)?.startsWith('#'));
    expect(own.length).toBeGreaterThan(150);
    expect(own.filter((name) => !tested.has(name))).toEqual([]);
  });

  // Numbers come from the descriptors, which are equal to the official ones; the bytes are read without the codec.
  it.each(cases)('writes and reads %s where the descriptor says', (_, { owner, field, steps, encode, decode }) => {
    const inner = sample(mapValue(field) ?? field);
    let message: Record<string, unknown> = { [propertyOf(owner, field)]: shaped(field, inner.value) };
    for (const step of steps.toReversed()) message = { [propertyOf(step.owner, step.field)]: shaped(step.field, message) };

    const bytes = encode(message);
    let level = bytes;
    for (const step of steps) {
      const [only, ...more] = readFields(level);
      expect([only?.number, only?.wireType, more.length]).toEqual([step.field.number, 2, 0]);
      level = only?.value ?? Buffer.alloc(0);
      if (mapValue(step.field)) level = readFields(level).find(({ number }) => number === 2)?.value ?? Buffer.alloc(0);
    }
    let written = readFields(level);
    const isPacked = field.label === labelRepeated && inner.wireType !== 2;
    expect(written.map(({ number, wireType }) => [number, wireType])).toEqual([
      [field.number, mapValue(field) || isPacked ? 2 : inner.wireType],
    ]);
    if (mapValue(field)) {
      written = readFields(written[0]?.value ?? Buffer.alloc(0));
      expect(written.map(({ number, wireType }) => [number, wireType])).toEqual([[1, 2], [2, inner.wireType]]);
    }
    expect(decode(bytes)).toMatchObject(message);
  });

  it('leaves out what is default or absent, and says which member of a oneof is set', () => {
    const bytes = encodeProcessingRequest({ request_headers: {} });
    expect(decodeProcessingRequest(bytes)).toEqual({ request: 'request_headers', request_headers: {} });
    expect(decodeProcessingRequest(Buffer.alloc(0))).toEqual({});
  });

  it('skips fields and passes on enum numbers that it does not know', () => {
    const known = encodeProcessingRequest({ request_body: { end_of_stream: true }, protocol_config: { request_body_mode: 77 } });
    // Fields 12 to 16 of every wire type, as newer Envoys have some.
    const unknown = Buffer.from([0x62, 2, 0x08, 1, 0x68, 0x96, 1, 0x75, 1, 2, 3, 4, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x82, 1, 1, 0xff]);
    expect(readFields(unknown).map(({ number }) => number)).toEqual([12, 13, 14, 15, 16]);
    expect(decodeProcessingRequest(Buffer.concat([unknown, known, unknown]))).toEqual({
      request: 'request_body',
      request_body: { end_of_stream: true },
      protocol_config: { request_body_mode: 77 },
    });
  });

  it('throws on bytes that are no message', () => {
    for (const bytes of [[0x12], [0x12, 5, 1], [0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], [0x17]]) {
      expect(() => decodeProcessingRequest(Buffer.from(bytes))).toThrow();
    }
  });
});

describe('messages.ts', () => {
  const declared = declaredInterfaces(path.join(root, 'src/extproc/messages.ts'));

  /** Outer name, then inner name, without the package. */
  function interfaceName({ fullName }: MessageType): string {
    const file = ourFiles.find(({ package: name }) => fullName.startsWith(`${name}.`));
    return fullName.slice((file?.package.length ?? 0) + 1).replaceAll('.', '');
  }

  function typeText(field: FieldDescriptor): string {
    const value = mapValue(field);
    if (value) return `Record<string, ${typeText(value)}>`;
    const type = fieldTypes[field.type] ?? '';
    const scalar = { bool: 'boolean', string: 'string', bytes: 'Buffer' }[type] ?? 'number';
    const single = isMessage(field) ? interfaceName(typeOf(field)) : scalar;
    return field.label === labelRepeated ? `${single}[]` : single;
  }

  const expected = new Map(
    roots
      .flatMap(({ type }) => [...reachable(type).keys()])
      .map((type) => {
        const { field = [], oneofDecl = [] } = type.descriptor;
        const oneofs = oneofDecl.map(({ name }, index): [string, string] => [
          name,
          field
            .filter(({ oneofIndex }) => oneofIndex === index)
            .map((member) => `'${propertyOf(type, member)}'`)
            .sort()
            .join(' | '),
        ]);
        const properties = field.map((item): [string, string] => [propertyOf(type, item), typeText(item)]);
        return [interfaceName(type), new Map([...oneofs, ...properties])];
      }),
  );

  it('declares an interface for each message and no other', () => {
    expect([...declared.keys()].sort()).toEqual([...expected.keys()].sort());
  });

  it.each([...expected.keys()])('declares %s as it is decoded', (name) => {
    expect(Object.fromEntries(declared.get(name) ?? [])).toEqual(Object.fromEntries(expected.get(name) ?? []));
  });

  it.each([
    ['envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.BodySendMode', messages.BodySendMode],
    ['envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.HeaderSendMode', messages.HeaderSendMode],
    ['envoy.config.core.v3.HeaderValueOption.HeaderAppendAction', messages.AppendAction],
    ['envoy.service.ext_proc.v3.CommonResponse.ResponseStatus', messages.ResponseStatus],
    ['envoy.data.accesslog.v3.AccessLogType', messages.AccessLogType],
  ])('has the values of %s', (name, constants) => {
    expect(constants).toEqual(Object.fromEntries(enumValues.get(name) ?? []));
  });
});

describe('round trips with the official protos of an older Envoy', () => {
  // grpc-js-xds carries them whole, annotations and all, so they take another way through the loader than ours.
  const official = path.join(path.dirname(createRequire(import.meta.url).resolve('@grpc/grpc-js-xds/package.json')), 'deps');
  const older = loadSync(['envoy/service/ext_proc/v3/external_processor.proto', 'envoy/service/accesslog/v3/als.proto'], {
    keepCase: true,
    longs: Number,
    defaults: false,
    oneofs: true,
    includeDirs: ['envoy-api', 'xds', 'googleapis', 'protoc-gen-validate'].map((folder) => path.join(official, folder)),
  });
  const olderFacts = factsOf(descriptorsIn(older));

  function method(service: string, name: string): MethodDefinition<object, object> {
    const found = (older[service] as ServiceDefinition | undefined)?.[name];
    if (found === undefined) throw new Error(`the official protos have no ${service}`);
    return found;
  }
  const olderProcess = method(externalProcessorName, 'Process');
  const olderLogs = method(accessLogName, 'StreamAccessLogs');
  const olderTypes = [olderProcess.requestType, olderProcess.responseType, olderLogs.requestType] as const;
  const pairs = olderTypes.map((type, index) => {
    const own = roots[index];
    if (own === undefined) throw new Error('a type without a codec of ours');
    return { ...own, officialEncode: type.serialize, officialDecode: type.deserialize };
  });

  const cache = new Map<string, fc.Arbitrary<object>>();

  /** Any message made of the fields that the older Envoy knows, to a depth. */
  function anyMessage(type: MessageType, depth: number): fc.Arbitrary<object> {
    const key = `${type.fullName} ${depth}`;
    const cached = cache.get(key);
    if (cached) return cached;
    const known = ({ name }: FieldDescriptor): boolean => type.fullName.startsWith('google.') || olderFacts.has(`${type.fullName}.${name}`);
    const fields = (type.descriptor.field ?? []).filter((field) => known(field) && (depth > 0 || !isMessage(field)));
    const free: Record<string, fc.Arbitrary<unknown>> = {};
    const oneofs = new Map<number, fc.Arbitrary<object>[]>();
    for (const field of fields) {
      const property = propertyOf(type, field);
      if (field.oneofIndex === undefined) free[property] = anyField(field, depth);
      else oneofs.set(field.oneofIndex, [...(oneofs.get(field.oneofIndex) ?? []), fc.record({ [property]: anyField(field, depth) })]);
    }
    const parts = [fc.record(free, { requiredKeys: [] }), ...[...oneofs.values()].map((members) => fc.oneof(fc.constant({}), ...members))];
    const made = fc.tuple(...parts).map((objects): object => Object.assign({}, ...objects) as object);
    cache.set(key, made);
    return made;
  }

  function anyField(field: FieldDescriptor, depth: number): fc.Arbitrary<unknown> {
    const value = mapValue(field);
    if (value) return fc.dictionary(fc.string(), anyValue(value, depth), { minKeys: 1, maxKeys: 2 });
    return field.label === labelRepeated ? fc.array(anyValue(field, depth), { minLength: 1, maxLength: 2 }) : anyValue(field, depth);
  }

  function anyValue(field: FieldDescriptor, depth: number): fc.Arbitrary<unknown> {
    const type = fieldTypes[field.type];
    if (type === 'message') return anyMessage(typeOf(field), depth - 1);
    if (type === 'enum') return fc.integer({ min: 0, max: 600 });
    if (type === 'bool') return fc.boolean();
    if (type === 'string') return fc.string({ unit: 'grapheme' });
    if (type === 'bytes') return fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
    if (type === 'double') return fc.double();
    if (type === 'uint32') return fc.integer({ min: 0, max: 0xffff_ffff });
    if (type === 'int32') return fc.integer();
    if (type === 'uint64') return fc.maxSafeNat();
    return fc.maxSafeInteger();
  }

  it.each(pairs.map((pair) => [pair.type, pair] as const))('%s: the same bytes, the same message', (type, pair) => {
    const messageType = messageTypes.get(type);
    if (messageType === undefined) throw new Error(`no message ${type}`);
    fc.assert(
      fc.property(anyMessage(messageType, 9), (message) => {
        const bytes = pair.officialEncode(message);
        expect(pair.encode(message)).toEqual(bytes);
        expect(pair.decode(bytes)).toEqual(pair.officialDecode(bytes));
      }),
      { numRuns: 60 },
    );
  });

  it('a message with fields that ours leave out', () => {
    const [request, , log] = pairs;
    const any = { type_url: 'type.googleapis.com/x', value: Buffer.from('x') };
    const full = {
      request_headers: { attributes: { a: {} }, end_of_stream: true },
      metadata_context: { typed_filter_metadata: { t: any }, filter_metadata: { n: {} } },
    };
    expect(request?.decode(request.officialEncode(full))).toEqual({
      request: 'request_headers',
      request_headers: { end_of_stream: true },
      metadata_context: { filter_metadata: { n: {} } },
    });
    const entry = {
      common_properties: {
        sample_rate: 1,
        tls_properties: { tls_sni_hostname: 'h' },
        filter_state_objects: { f: any },
        upstream_local_address: { socket_address: { address: '10.0.0.9' } },
        upstream_remote_address: { socket_address: { protocol: 1, address: '10.0.0.1', port_value: 8000 } },
        upstream_wire_bytes_sent: 5,
        access_log_type: 6,
      },
      response: { response_code: { value: 200 } },
    };
    const identifier = { node: { id: 'n', locality: { zone: 'z' }, listening_addresses: [{}] }, log_name: 'l' };
    expect(log?.decode(log.officialEncode({ identifier, http_logs: { log_entry: [entry] } }))).toEqual({
      identifier: { node: { id: 'n' }, log_name: 'l' },
      log_entries: 'http_logs',
      http_logs: {
        log_entry: [
          {
            common_properties: {
              upstream_remote_address: {
                address: 'socket_address',
                socket_address: { address: '10.0.0.1', port_specifier: 'port_value', port_value: 8000 },
              },
              access_log_type: 6,
            },
            response: { response_code: { value: 200 } },
          },
        ],
      },
    });
    expect(log?.decode(log.officialEncode({ tcp_logs: { log_entry: [entry] } }))).toEqual({});
  });
});
