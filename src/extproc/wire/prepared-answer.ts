import type { CommonResponse, HeaderMutation, ProcessingMode, Struct, Value } from '../messages.ts';

// Answers are the same for thousands of requests but for the lease: what was sent once is sent again with another. Whoever does not know of
// that (the generic codec of the grpc-js server) finds all members where they belong.

/** A response to headers or body that is meant to be sent many times. */
export class PreparedResponse implements CommonResponse {
  readonly header_mutation: HeaderMutation;
  readonly clear_route_cache: boolean;
  /** Whether it was sent at all; for the encoder alone, as what follows. */
  wasSent = false;
  /** Whole answers with this response, as they were sent from the second time on. Oldest first. */
  readonly sent: SentAnswer[] = [];

  constructor(response: Required<Pick<CommonResponse, 'header_mutation' | 'clear_route_cache'>>) {
    this.header_mutation = response.header_mutation;
    this.clear_route_cache = response.clear_route_cache;
  }
}

/** An answer on the wire, of which the next one differs in the lease alone. */
export interface SentAnswer {
  readonly phase: 'request_headers' | 'request_body';
  /** By identity. */
  readonly mode: ProcessingMode | undefined;
  readonly metadata: PreparedMetadata | undefined;
  /** Room before it, in bytes. */
  readonly prefixBytes: number;
  readonly bytes: Buffer;
  /** Where the lease stands, and how long it is: in ASCII. 0: there is none. */
  readonly leaseAt: number;
  readonly leaseBytes: number;
}

/** Metadata of answers that differ in the lease alone: `{ fairlead: { lease, … }, … }`. */
export class PreparedMetadata {
  /** What stands beside the lease. */
  readonly told: Readonly<Record<string, Value>>;
  /** The other namespaces. */
  readonly others: Readonly<Record<string, Value>>;

  constructor(told: Readonly<Record<string, Value>>, others: Readonly<Record<string, Value>>) {
    this.told = told;
    this.others = others;
  }
}

/** The namespace of what is ours. */
export const ownNamespace = 'fairlead';

/** The metadata of one answer. */
export class LeaseMetadata implements Struct {
  readonly prepared: PreparedMetadata;
  readonly lease: string;

  constructor(prepared: PreparedMetadata, lease: string) {
    this.prepared = prepared;
    this.lease = lease;
  }

  /** Made anew each time: for the generic codec, and for tests. */
  get fields(): Record<string, Value> {
    const { told, others } = this.prepared;
    return { ...others, [ownNamespace]: { structValue: { fields: { lease: { stringValue: this.lease }, ...told } } } };
  }
}
