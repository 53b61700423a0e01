
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Paper',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('title', models.CharField(max_length=500)),
                ('authors', models.TextField(blank=True, help_text='Separated by semicolons.')),
                ('year', models.PositiveSmallIntegerField(blank=True, null=True, validators=[django.core.validators.MinValueValidator(1400), django.core.validators.MaxValueValidator(2200)])),
                ('venue', models.CharField(blank=True, help_text='Journal, conference or publisher.', max_length=300)),
                ('doi', models.CharField(blank=True, max_length=200, verbose_name='DOI')),
                ('summary', models.TextField(blank=True)),
                ('file_name', models.CharField(help_text='The name under which the document was ingested.', max_length=255)),
                ('content_hash', models.CharField(help_text="SHA-256 of the document's bytes.", max_length=64, unique=True, validators=[django.core.validators.RegexValidator('\\A[0-9a-f]{64}\\Z', 'A SHA-256 hash is 64 hexadecimal digits, in lower case.')])),
                ('added', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                'ordering': ('-added', '-pk'),
                'indexes': [models.Index(fields=['-added', '-id'], name='paper_newest_first')],
            },
        ),
        migrations.CreateModel(
            name='Embedding',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('vector', models.BinaryField()),
                ('model', models.CharField(max_length=100)),
                ('dimension', models.PositiveIntegerField()),
                ('paper', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='embedding', to='library.paper')),
            ],
            options={
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='PageEmbedding',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('vector', models.BinaryField()),
                ('model', models.CharField(max_length=100)),
                ('dimension', models.PositiveIntegerField()),
                ('page', models.PositiveIntegerField(help_text='Counted from 1.')),
                ('text', models.TextField()),
                ('paper', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='pages', to='library.paper')),
            ],
            options={
                'ordering': ('paper_id', 'page'),
                'constraints': [models.UniqueConstraint(fields=('paper', 'page'), name='page_once_a_paper')],
            },
        ),
        migrations.CreateModel(
            name='Metadata',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(max_length=100)),
                ('value', models.TextField()),
                ('paper', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='metadata', to='library.paper')),
            ],
            options={
                'verbose_name_plural': 'metadata',
                'ordering': ('paper_id', 'key'),
                'constraints': [models.UniqueConstraint(fields=('paper', 'key'), name='metadata_key_once_a_paper')],
            },
        ),
    ]
