"""Templates of jobs that run written trials elsewhere; see manifest_engine.

Every value goes through `tojson`, which is a YAML scalar whatever it holds.
"""

GKE_JOBSET = """\
# {{ count }} trials of the sweep {{ sweep }} as JobSets, one TPU slice each:
#   kubectl apply -f gke-jobset.yaml
# Needs JobSet in the cluster, and a volume claim that all pods can write to
# ("ReadWriteMany", such as Filestore) under the name below.
{%- for trial in trials %}
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {{ trial.job | tojson }}
  labels:
    varjax-sweep: {{ label | tojson }}
    varjax-run: {{ trial.run_id | tojson }}
spec:
  failurePolicy:
    maxRestarts: {{ retries }}
    rules:
      # Bad input and diverged runs fail the same way again.
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: trial
      replicas: 1
      template:
        spec:
          parallelism: {{ slice.hosts }}
          completions: {{ slice.hosts }}
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  operator: In
                  values: {{ final_codes | tojson }}
          template:
            spec:
              restartPolicy: Never
              # A run saves at SIGTERM: leave it the time to do so.
              terminationGracePeriodSeconds: {{ grace_s }}
              nodeSelector:
{%- for key, value in selector.items() %}
                {{ key }}: {{ value | tojson }}
{%- endfor %}
              containers:
                - name: trial
                  image: {{ image | tojson }}
                  command: ["sh", {{ trial.script | tojson }}]
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                  resources:
                    requests:
                      google.com/tpu: {{ slice.chips_per_host }}
                    limits:
                      google.com/tpu: {{ slice.chips_per_host }}
                  volumeMounts:
                    - name: sweep
                      mountPath: {{ remote_dir | tojson }}
              volumes:
                - name: sweep
                  persistentVolumeClaim:
                    claimName: varjax-sweep
{%- endfor %}
"""

XPK = """\
#!/bin/sh
# {{ count }} trials of the sweep {{ sweep }} as workloads of xpk.
# Needs CLUSTER (and PROJECT and ZONE where gcloud has no default); the
# cluster mounts storage at {{ remote_dir }} ("xpk storage").
set -eu
: "${CLUSTER:?the name of the xpk cluster}"
{%- for trial in trials %}
xpk workload create --cluster "$CLUSTER" \\
  ${PROJECT:+--project "$PROJECT"} ${ZONE:+--zone "$ZONE"} \\
  --workload {{ trial.job | quote }} --tpu-type {{ slice.kind | quote }} \\
  --docker-image {{ image | quote }} --max-restarts {{ retries }} \\
  --priority {{ trial.xpk_priority }} \\
  --command {{ ('sh ' + (trial.script | quote)) | quote }}
{%- endfor %}
"""

SKY_TASK = """\
# Trial {{ trial.name }} of the sweep {{ sweep }}; a managed job survives
# preemption:  sky jobs launch -y {{ trial.file }}
name: {{ trial.job | tojson }}
num_nodes: 1
resources:
  accelerators: {{ ('tpu-' + slice.kind) | tojson }}
  use_spot: true
  image_id: {{ ('docker:' + image) | tojson }}
  job_recovery:
    strategy: FAILOVER
    max_restarts_on_errors: {{ retries }}
envs:
  VARJAX_SWEEP_DIR: {{ remote_dir | tojson }}
file_mounts:
  # A bucket or volume that holds the sweep directory; edit the source.
  {{ remote_dir | tojson }}:
    source: "gs://YOUR_BUCKET/sweep"
    mode: MOUNT
run: |
  sh {{ trial.script | quote }}
"""

README = """\
# {{ count }} trials of the sweep {{ sweep }}

Written by `varjax sweep --engine manifest`; nothing was started.

- `commands/*.sh`: one command per trial, whole in itself. It needs varjax
  and the sweep directory at `{{ remote_dir }}`, or where VARJAX_SWEEP_DIR
  says. Run again, it resumes; complete, it does nothing. Never run one twice
  at the same time.
- `trials.json`: the same as a table: name, run id, script, priority.
- `gke-jobset.yaml`, `xpk.sh`, `skypilot/*.yaml`: examples for schedulers, to
  be edited: image, storage, cluster. They were checked for form, and not run.

Paths of inputs (tokenizer_dir, codes_dir, data.data_dir) are those of the
sweep; relative ones start from the folder that the command is started in.

When trials have ended, with the sweep directory at hand:

    varjax sweep --collect --workdir SWEEP_DIR
    varjax status SWEEP_DIR
"""
